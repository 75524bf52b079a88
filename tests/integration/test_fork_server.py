"""A nursery's children are processes as any other: they end as they should, and before it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mimo_core.launch.fork_server import ForkServer, ForkServerError
from mimo_core.launch.local_ranks import _end, _wait

from ..helpers.paths import HELPERS

pytestmark = pytest.mark.usefixtures("real_nurseries")
CHILDREN = "forked_programs"


@pytest.fixture(scope="module")
def nursery() -> Iterator[ForkServer]:
    with ForkServer(["torch"], told="for-tests") as one:
        yield one


@pytest.fixture
def start(nursery: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HELPERS))

    def begin(call: str, *argv: str, **environ: str):
        return nursery.start(
            f"{CHILDREN}:{call}", ["child", *argv], environ, name=call, log=tmp_path / "log"
        )

    return begin


def test_a_child_is_a_process_of_its_own_and_begins_with_torch(start, tmp_path: Path) -> None:
    child = start("tell", str(tmp_path / "told"), RANK="3")
    assert child.wait() == 0
    assert json.loads((tmp_path / "told").read_text()) == {
        "argv": [str(tmp_path / "told")],
        "rank": "3",
        "inherited": None,
        "leads": True,
        "name": "tell",
        "collects": True,
        "torch": True,
        "cuda": False,
    }
    assert (tmp_path / "log").read_text() == "told\n"


def test_children_end_with_their_status(start, tmp_path: Path) -> None:
    assert start("leave", "0").wait() == 0
    assert start("leave", "7").wait() == 7
    assert start("complain").wait() == 1
    assert (tmp_path / "log").read_text() == "this cannot be\n"
    assert start("fail").wait() == 1
    assert "KeyError: 'lost'" in (tmp_path / "log").read_text()


def test_what_a_thread_of_a_child_still_writes_is_written(start, tmp_path: Path) -> None:
    assert start("linger", str(tmp_path / "late")).wait() == 0
    assert (tmp_path / "late").read_text() == "written"


def test_what_lies_in_the_working_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "psutil.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    with ForkServer(["psutil"]) as nursery:
        child = nursery.start("psutil:cpu_count", [""], {}, name="here", log=tmp_path / "log")
        assert child.wait() == 0, (tmp_path / "log").read_text()


def test_a_nursery_that_is_gone_says_so() -> None:
    with ForkServer([]) as nursery:
        assert not nursery.ended
        child = nursery.start(f"{CHILDREN}:stay", ["child"], {}, name="last")
        psutil.Process(child.pid).parent().kill()
        child.wait()
        end = time.monotonic() + 1800
        while not nursery.ended and time.monotonic() < end:
            time.sleep(0.05)
        assert nursery.ended


def test_a_signal_that_ended_a_child_is_its_status(start) -> None:
    child = start("stay")
    assert child.poll() is None
    child.terminate()
    assert child.wait() == -signal.SIGTERM
    child = start("stay")
    child.kill_group()
    assert child.wait() == -signal.SIGKILL
    child.terminate()
    child.kill_group()


def test_a_signal_to_every_process_reaches_children_alone(start) -> None:
    child = start("stay")
    parent = psutil.Process(child.pid).parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        parent.send_signal(number)
    assert start("leave", "0").wait() == 0
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 1, "KeyboardInterrupt"


def test_several_children_run_at_once(start) -> None:
    first, second = start("stay"), start("leave", "4")
    assert second.wait() == 4
    assert first.poll() is None
    first.kill_group()
    assert first.wait() == -signal.SIGKILL


def test_children_end_with_a_nursery_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HELPERS))
    with ForkServer([]) as nursery:
        child = nursery.start(f"{CHILDREN}:stay", ["child"], {**os.environ}, name="orphan")
        psutil.Process(child.pid).parent().kill()
        assert child.wait() == -signal.SIGKILL
        end = time.monotonic() + 1800
        while psutil.pid_exists(child.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not psutil.pid_exists(child.pid)
        with pytest.raises(
            ForkServerError, match=r"ended with signal 9 .*mimo_core\.launch\.fork_server"
        ):
            nursery.start(f"{CHILDREN}:stay", ["child"], {}, name="none")


def test_how_children_end_is_known_where_the_nursery_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(HELPERS))
    with ForkServer([]) as nursery:
        ranks = [
            nursery.start(f"{CHILDREN}:{call}", ["child", "7"], {}, name=call)
            for call in ("leave_later", "stay")
        ]
        parent = psutil.Process(ranks[0].pid).parent()
        parent.suspend()
        assert ranks[0].wait(1800) == 7
        assert _wait(ranks, lambda: False) == {0: 7}, "a launcher hears of a failed rank"
        assert nursery.silent
        _end(ranks)
        assert ranks[1].returncode == -signal.SIGKILL
    assert not parent.is_running()
    end = time.monotonic() + 1800
    while psutil.pid_exists(ranks[1].pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(ranks[1].pid)


def test_what_cannot_be_imported_is_told_by_the_child(tmp_path: Path) -> None:
    with ForkServer(["no_such_module"]) as nursery:
        child = nursery.start("nor_this:main", [""], {}, name="lost", log=tmp_path / "log")
        assert child.wait() == 1
    assert "No module named 'nor_this'" in (tmp_path / "log").read_text()


def test_threads_that_libraries_started_are_no_news(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Python warns of a fork beside them; with ``OMP_NUM_THREADS`` above 1 there are some."""
    (tmp_path / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(HELPERS))
    with ForkServer(["threaded"], told="for-tests") as nursery:
        call = f"{CHILDREN}:leave"
        child = nursery.start(call, ["child", "0"], {}, name="leave", log=tmp_path / "log")
        assert child.wait() == 0
    assert "multi-threaded" not in capfd.readouterr().err
