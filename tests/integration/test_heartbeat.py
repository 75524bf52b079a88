"""A rank that is stopped or stuck is named and ends the run; one that works for long is not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mimo_core.launch import heartbeat
from mimo_core.launch.heartbeat import Clock, Heart, Limits, Monitor
from mimo_core.launch.protocol import Malformed
from mimo_core.utils.activity import CURRENT, Activity, main_stack

from ..helpers.runs import TIMEOUT, installed, start, wrapping
from .test_launcher import processes

LIMITS = Limits(timeout=60.0, stall=540.0)


class Time:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(heartbeat, "time", made)
    return made


def sent(progress: int, *, waits: bool = False, stack: str = "", pid: int = 1 << 40) -> dict:
    at = "iteration 3, data"
    return {"pid": pid, "progress": progress, "at": at, "stack": stack, "waits": waits}


def after(clock: Time, monitor: Monitor, seconds: int, beats: dict[int, dict]) -> tuple | None:
    """What the monitor says within so many seconds of heartbeats."""
    for _ in range(seconds):
        clock.now += 1.0
        monitor.is_due()
        for rank, message in beats.items():
            monitor.take(rank, message)
        if (found := monitor.hung()) is not None:
            return found
    return None


def test_a_rank_without_heartbeats_is_named_after_the_timeout(clock: Time) -> None:
    monitor = Monitor(LIMITS, local=True)
    assert after(clock, monitor, 5, {0: sent(1), 1: sent(1)}) is None
    assert after(clock, monitor, 59, {0: sent(2)}) is None
    rank, said = after(clock, monitor, 3, {0: sent(2)})
    assert rank == 1
    assert "has sent no heartbeat for 60 s" in said and "iteration 3, data" in said


def test_a_rank_that_has_ended_is_not_missed(clock: Time) -> None:
    monitor = Monitor(LIMITS, local=False)
    after(clock, monitor, 1, {0: sent(1), 1: sent(1)})
    monitor.forget(1)
    assert after(clock, monitor, 100, {0: sent(2)}) is None


def test_a_pause_of_all_ranks_together_is_no_hang(clock: Time) -> None:
    monitor = Monitor(LIMITS, local=True)
    after(clock, monitor, 5, {0: sent(1), 1: sent(1)})
    clock.now += 3600.0
    assert after(clock, monitor, 30, {}) is None


def test_a_process_that_works_without_heartbeats_has_longer(clock: Time) -> None:
    """A call of C that keeps Python's lock, such as a compilation."""
    monitor = Monitor(LIMITS, local=True)
    busy = threading.Event()
    worker = threading.Thread(target=lambda: [sum(range(10**6)) for _ in iter(busy.is_set, True)])
    worker.start()
    try:
        after(clock, monitor, 1, {0: sent(1, pid=os.getpid())})
        for _ in range(100):
            clock.now += 1.0
            monitor.is_due()
            before = sum(os.times()[:2])
            while sum(os.times()[:2]) < before + 0.03:
                time.sleep(0.01)
            assert monitor.hung() is None
    finally:
        busy.set()
        worker.join()


def test_a_rank_that_others_wait_for_is_named_with_its_stack(clock: Time) -> None:
    monitor = Monitor(LIMITS, local=True)
    stuck, waits = sent(7, stack="File x.py, line 3"), sent(9, waits=True, stack="wait")
    assert after(clock, monitor, 539, {0: waits, 1: stuck}) is None
    rank, said = after(clock, monitor, 10, {0: waits, 1: stuck})
    assert rank == 1
    assert "has made no progress for 540 s" in said and said.endswith("File x.py, line 3")


@pytest.mark.parametrize(
    "beats",
    [
        {0: sent(7, stack="x"), 1: sent(7, stack="y")},
        {0: sent(7, stack="x", waits=True), 1: sent(7, stack="y", waits=True)},
    ],
    ids=["all compute", "all wait"],
)
def test_long_work_of_all_ranks_is_no_hang(clock: Time, beats: dict[int, dict]) -> None:
    monitor = Monitor(LIMITS, local=True)
    assert after(clock, monitor, 2000, beats) is None


@pytest.mark.parametrize(
    "message", [None, {}, {"pid": 1}, {"pid": "1", "progress": 1}, {"pid": -1}]
)
def test_a_malformed_heartbeat_is_refused(message: object) -> None:
    with pytest.raises(Malformed):
        Monitor(LIMITS, local=True).take(1, message)


def test_the_loss_of_rank_0_is_noticed_by_the_others() -> None:
    said: list[str] = []
    lost = threading.Event()
    beats: list[dict] = []
    heart = Heart(
        Limits(0.3, 60.0), beats.append, lambda message: (said.append(message), lost.set())
    )
    heart.hear()
    assert lost.wait(TIMEOUT)
    assert "no heartbeat for 0.3 s" in said[0]
    assert beats[0]["beat"]["pid"] == os.getpid()


def test_a_clock_does_not_count_pauses_of_its_own(clock: Time) -> None:
    made = Clock(2.0)
    clock.now += 1.0
    assert made.advance() == 1.0
    clock.now += 100.0
    assert made.advance() == 3.0


def test_an_activity_names_the_phase_and_goes_back_to_the_one_before() -> None:
    activity = Activity()
    assert activity.describe() == "setup"
    activity.begin(3, "forward-backward")
    before = activity.progress
    with activity.during("data"):
        assert activity.describe() == "iteration 3, data"
    assert activity.describe() == "iteration 3, forward-backward"
    assert activity.progress == before + 2
    assert CURRENT.phase == "setup"


def test_the_stack_of_the_main_thread_is_seen_from_another() -> None:
    found: list[tuple[str, bool]] = []
    worker = threading.Thread(target=lambda: found.append(main_stack()))
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
    assert "test_the_stack_of_the_main_thread" in found[0][0]
    assert not found[0][1]


# Before the first step the language model's rank builds all four microbatches of it.
@pytest.mark.usefixtures("real_nurseries")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(
            "0 provide_batch 3 stop",
            "rank 0 (vision) has sent no heartbeat for 3 s",
            id="rank 0 stopped",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "1 provide_batch 6 stop",
            "rank 1 (language) has sent no heartbeat for 3 s",
            id="rank 1 stopped",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "1 provide_batch 6 wait",
            "rank 1 (language) has made no progress for 10 s",
            id="rank 1 reads a pipe",
        ),
    ],
)
def test_a_hung_rank_ends_the_run(
    fault: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    installed("faults", site)
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("FAULT_TIME", str(tmp_path / "when"))
    folder = tmp_path / "run"
    limits = ["heartbeat.timeout_seconds=3"]
    if fault.endswith("wait"):
        limits = ["heartbeat.stall_seconds=10"]
    run = start("tiny", *limits, *wrapping("faults"), folder=folder, site=site)
    assert run.code == 1 and said in run.errors, run.errors
    assert "iteration " in run.errors and "data" in run.errors
    if fault.endswith("wait"):
        assert "pipe.read_text()" in run.errors and "faults_plugin.py" in run.errors
    assert not processes(folder)
