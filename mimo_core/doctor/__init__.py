"""``mimo doctor``: what is installed, what fits together, what this machine can run."""

from mimo_core.doctor.examine import Report, examine
from mimo_core.doctor.findings import Finding

__all__ = ["Finding", "Report", "examine"]
