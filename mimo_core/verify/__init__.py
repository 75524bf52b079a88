"""Whether a recipe trains as the same model does on one rank: ``mimo verify``."""

from mimo_core.verify.compare import TOLERANCES, Row, Verdict
from mimo_core.verify.run import Judge, verify

__all__ = ["TOLERANCES", "Judge", "Row", "Verdict", "verify"]
