"""Finding plugins, registering them strictly, and asking them."""

from mimo_core.plugins.host import Host
from mimo_core.plugins.record import PluginRecord

__all__ = ["Host", "PluginRecord"]
