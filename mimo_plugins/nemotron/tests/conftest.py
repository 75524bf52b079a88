"""Puts this folder on the path: ``modules`` and ``rank_functions`` are shared by the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
