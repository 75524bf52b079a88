"""What a plugin is held to when it is imported: its contract, its imports, its manners."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import attrs
import pytest

from mimo_core import CONTRACT
from mimo_core.errors import PluginError
from mimo_core.launch.rank_env import Rank
from mimo_core.launch.version_check import compare_plugins
from mimo_core.plugins import Host, versions
from mimo_core.plugins.versions import Deprecation, check_contract

from ..helpers.fake_plugins import GOOD, eye
from ..helpers.problems import refused


def record(name: str):
    host = Host.discover(environ={})
    return next(record for record in host.records if record.name == name)


@pytest.mark.parametrize(
    ("stated", "offered", "said"),
    [
        (
            "1.2",
            "1.1",
            r"for contract 1.2, but mimo-core .* offers contract 1.1; install a newer",
        ),
        ("2.0", "1.9", r"install a newer mimo-core, or an older version of the plugin"),
        ("1.9", "2.0", r"took things away since; install a newer version of the plugin"),
        (None, "1.0", r"states no contract version; write mimo_contract = '1.0'"),
        (1.0, "1.0", r"mimo_contract = 1.0: expected a text such as '1.0'"),
        ("1", "1.0", r"expected a text such as"),
    ],
)
def test_a_contract_that_does_not_fit_is_told_either_way(stated, offered, said):
    with pytest.raises(PluginError, match=said):
        check_contract(SimpleNamespace(mimo_contract=stated), offered)


@pytest.mark.parametrize("stated", ["1.0", "1.3"])
def test_an_older_minor_version_fits(stated):
    check_contract(SimpleNamespace(mimo_contract=stated), "1.3")


def test_an_installed_plugin_of_another_contract_is_broken_and_says_why(install):
    install("late", GOOD.replace(CONTRACT, "9.0"))
    found = record("late")
    assert found.state == "broken"
    assert found.reason is not None and "written for contract 9.0" in found.reason


def test_a_name_that_this_core_has_not_hints_at_its_version(install):
    install("new", "from mimo_core import Telepathy")
    why = record("new").reason
    assert why is not None
    assert "cannot import name 'Telepathy' from 'mimo_core'" in why
    assert f"may want a newer mimo-core (this is {versions.core_version()}, contract" in why


def test_so_does_a_name_that_is_taken_of_the_module(install):
    install("new", "import mimo_core as mimo\nmimo.Telepathy")
    why = record("new").reason
    assert why is not None
    assert "has no attribute 'Telepathy'; it may want a newer mimo-core" in why
    install("own", "import json\njson.telepathy")
    assert record("own").reason == "AttributeError: module 'json' has no attribute 'telepathy'"


def test_what_a_plugin_prints_later_is_seen(install, capsys):
    install("log", "import sys\nscreen = sys.stdout\n" + GOOD)
    assert record("log").warnings == ()
    sys.modules["fake_mimo_plugin_log"].screen.write("later")
    assert capsys.readouterr().out == "later"


def test_printing_at_import_is_kept_off_the_screen_and_told(install, capsys):
    install("loud", "print('look at me')\n" + GOOD)
    found = record("loud")
    assert capsys.readouterr().out == ""
    assert found.state == "usable"
    assert found.warnings == (
        "prints when it is imported ('look at me'); it was kept off the screen",
    )


@pytest.mark.parametrize(
    "statement", ["import torch.nn", "from torch import nn", "__import__('torch')"]
)
def test_importing_torch_at_import_is_told_with_its_place(install, statement):
    """In ranks torch is there already; the listing on a laptop is what waits."""
    import torch

    assert torch.__name__ in sys.modules
    install("slow", f"{statement}\n" + GOOD)
    (warning,) = record("slow").warnings
    assert warning.startswith("imports torch (at ")
    assert warning.split(")")[0].endswith("fake_mimo_plugin_slow.py:1")
    assert record("slow").state == "usable"


def test_a_plugin_that_keeps_the_manners_has_no_warnings(install):
    install("good", GOOD)
    assert record("good").warnings == ()


def test_what_will_go_is_told_of_plugins_that_use_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        versions,
        "DEPRECATIONS",
        (
            Deprecation(what="hook rng_prefix", since="1.4", instead="say it in describe"),
            Deprecation(what="argument provide_batch.context", since="1.5", instead="ask data"),
            Deprecation(what="hook preview", since="1.2", instead="nothing"),
        ),
    )
    (found,) = Host.from_plugins({"eye": eye()}).records
    assert found.warnings == (
        "hook rng_prefix is deprecated since contract 1.4 and goes with 2.0: say it in describe",
        "argument provide_batch.context is deprecated since contract 1.5 and goes with 2.0: "
        "ask data",
    )


class Store(dict):
    """Where ranks meet."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()


def test_why_a_plugin_is_broken_is_told_and_not_compared(install):
    store = Store()
    rank = Rank(rank=0, local_rank=0, world_size=2)
    install("bad", "raise OSError('/a/1')")
    host = Host.discover(environ={})
    compare_plugins(host, rank, store)
    (record,) = host.records
    host._records["bad"] = attrs.evolve(record, reason="OSError: /b/2")
    compare_plugins(host, attrs.evolve(rank, rank=1), store)
    host._records["bad"] = attrs.evolve(record, reason=None, state="usable")
    with pytest.raises(PluginError, match=r"broken \(OSError: /a/1\) on rank 0"):
        compare_plugins(host, attrs.evolve(rank, rank=1), store)


def test_ranks_with_other_plugins_hear_what_both_sides_have():
    store = Store()
    rank = Rank(rank=0, local_rank=0, world_size=2)
    plugins = {"eye": eye(), "extra": eye(), "same": eye()}
    compare_plugins(Host.from_plugins(plugins), rank, store)
    other = attrs.evolve(rank, rank=1)
    compare_plugins(Host.from_plugins(plugins), other, store)
    del plugins["extra"]
    names = ("plugin 'extra'", "plugin 'eye'")
    with refused("launch.other-plugins", PluginError, rank=1, names=names) as caught:
        compare_plugins(Host.from_plugins(plugins, {"eye": "2"}), other, store)
    where = json.loads(store["mimo/plugins"])["where"]
    here = where.replace("rank 0", "rank 1")
    _, extra, changed, _ = caught.value.text.splitlines()
    assert extra == (f"  plugin 'extra': mimo-plugin-extra 0 on {where}, not installed on {here}")
    assert changed == f"  plugin 'eye': mimo-plugin-eye 0 on {where}, mimo-plugin-eye 2 on {here}"
