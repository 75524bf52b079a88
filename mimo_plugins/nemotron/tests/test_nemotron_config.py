"""Every key of ``config.json``, left out and changed: transformers' numbers, or refused by name."""

from __future__ import annotations

import pytest

from mimo_core.testing.config_suite import ConfigSuite

pytestmark = pytest.mark.long


class TestNemotronConfig(ConfigSuite):
    """The files of one type."""
