"""Clocks of machines and devices, related to each other within the error that is told."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest
import torch

from mimo_core.platforms import timers
from mimo_core.profile import clock_sync as clock_module
from mimo_core.profile.clock_sync import ClockServer, machine, measure

from ..helpers.problems import refused


def test_another_machines_clock_is_found_within_the_told_error() -> None:
    ahead = 1234.5
    server = ClockServer(lambda: time.perf_counter() + ahead)
    try:
        offset = measure("127.0.0.1", server.port, server.token)
    finally:
        server.close()
    assert abs(offset.seconds - ahead) <= offset.error
    assert 0 < offset.error < 0.1, "a hundred answers over the loopback, the quickest counts"


def test_answers_that_are_late_on_one_way_only_are_within_the_error() -> None:
    def clock() -> float:
        now = time.perf_counter()
        time.sleep(0.002)
        return now

    server = ClockServer(clock)
    try:
        offset = measure("127.0.0.1", server.port, server.token)
    finally:
        server.close()
    assert abs(offset.seconds) <= offset.error
    assert offset.error >= 0.001, "half of what an answer takes"


def test_a_server_that_is_gone_is_told_with_the_way_out() -> None:
    server = ClockServer()
    server.close()
    with refused("launch.clock-unreachable", address=f"127.0.0.1:{server.port}"):
        measure("127.0.0.1", server.port, server.token)


def test_strangers_get_no_answer_and_delay_none() -> None:
    """Each once kept all ranks waiting for longer than they wait, which ended the run."""
    server = ClockServer()
    with ExitStack() as stack:
        stack.callback(server.close)

        def stranger(sent: bytes) -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60.0))
            made.sendall(sent)
            return made

        silent = [stranger(b"") for _ in range(2 * clock_module._STRANGERS)]
        wrong = stranger(bytes(64))
        assert measure("127.0.0.1", server.port, server.token).error < 1.0
        for closed in (wrong, silent[0]):
            with suppress(ConnectionError):
                assert closed.recv(1) == b""


def test_processes_of_one_machine_know_it() -> None:
    assert machine() == machine()


class Machine:
    """A host and its device as ``time`` and ``torch.cuda`` show them. The device's clock began
    elsewhere and runs faster; its work ends some time after it was given, in order."""

    BEGAN = 77.0
    FASTER = 1 + 40e-6
    CALL = 5e-6

    def __init__(self) -> None:
        self.time = 1000.0
        self.done = 0.0
        """When the device has nothing more to do, by the host's clock."""

    def perf_counter(self) -> float:
        self.time += self.CALL
        return self.time

    def work(self, seconds: float) -> None:
        self.done = max(self.done, self.time) + seconds

    def synchronize(self) -> None:
        self.time = max(self.done, self.time) + self.CALL

    def event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def record(self, stream: str) -> None:
        assert stream == "main"
        self.at = max(self.machine.done, self.machine.perf_counter())

    def synchronize(self) -> None:
        self.machine.synchronize()

    def elapsed_time(self, other: Event) -> float:
        ticks = [(event.at - Machine.BEGAN) * Machine.FASTER for event in (self, other)]
        return (ticks[1] - ticks[0]) * 1e3


def test_a_devices_times_are_told_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Machine()
    monkeypatch.setattr(timers, "time", simulated)
    monkeypatch.setattr(torch.cuda, "Event", simulated.event)
    monkeypatch.setattr(torch.cuda, "synchronize", simulated.synchronize)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "main")
    watch = timers.DeviceStopwatch()
    watch.start()
    given, marks = simulated.time, []
    for _ in range(3):
        simulated.work(0.5)
        marks.append(watch.mark())
    times = watch.seconds(marks)
    assert times[0] - given > 0.49, "when the work was done, not when it was given"
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([0.5, 0.5], rel=1e-4)
    drift = 1.5 * (Machine.FASTER - 1)
    worst = max(abs(time - mark.at) for time, mark in zip(times, marks, strict=True))
    assert drift / 2 < worst <= watch.error < 3 * drift
