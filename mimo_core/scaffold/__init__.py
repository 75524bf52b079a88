"""A new plugin's distribution, written from templates: ``mimo plugins new``."""

from mimo_core.scaffold.kinds import KINDS
from mimo_core.scaffold.names import check_name
from mimo_core.scaffold.write import Written, write_plugin

__all__ = ["KINDS", "Written", "check_name", "write_plugin"]
