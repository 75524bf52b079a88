"""One thing that the doctor looked at."""

from __future__ import annotations

from typing import Literal

import attrs

Verdict = Literal["good", "note", "wrong"]


@attrs.frozen(kw_only=True)
class Finding:
    """What was looked at, what was found, and what to do where it is not as it should be."""

    section: str
    what: str
    found: str
    verdict: Verdict = "good"
    """``note``: something cannot be done here, and nothing is broken."""
    remedy: str = ""
