"""How many of a run's answers (``validation.num_displayed``) are right: by kind of sample, and
word by word.

python by_kind.py runs/three
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    """Print a line for each kind."""
    summary = json.loads((Path(sys.argv[1]) / "summary.json").read_text(encoding="utf-8"))
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()

    def count(what: str, is_right: bool) -> None:
        asked[what] += 1
        right[what] += is_right

    for answer in summary["answers"]:
        kind = answer["key"].split("/")[2]
        truth, said = (answer[which].strip().partition(" ") for which in ("truth", "said"))
        for group in ("all samples", f"of kind {kind}"):
            count(group, truth == said)
        if kind in ("both", "picture"):
            count("word of a picture", truth[0] == said[0])
        if kind in ("both", "sound"):
            count("word of a sound", truth[2] == said[2])
    for what in sorted(asked):
        print(f"{what:20} {right[what]:4} of {asked[what]:4}  {right[what] / asked[what]:6.1%}")


if __name__ == "__main__":
    main()
