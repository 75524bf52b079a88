"""One rank that ``run_ranks`` started."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Run the function that the command line names; leave what it returned in a file."""
    function, arguments, result = sys.argv[1:]
    module, _, name = function.rpartition(":")

    from mimo_core import platforms

    platform = platforms.select(int(os.environ["LOCAL_RANK"]))
    import torch.distributed as dist

    dist.init_process_group(platform.backend)
    if module.endswith(".py"):
        sys.path.insert(0, str(Path(module).parent))
        module = Path(module).stem
    call = getattr(importlib.import_module(module), name)
    value = call(platform=platform, **json.loads(arguments))
    Path(result).write_text(json.dumps(value), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
