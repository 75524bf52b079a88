"""Makes the tests' helper module importable in whatever mode pytest imports the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
