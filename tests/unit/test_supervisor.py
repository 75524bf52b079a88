"""The failure hub: what ranks send it, and what others send it, which must change nothing."""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from mimo_core.errors import SampleError
from mimo_core.launch import supervisor as hub_module
from mimo_core.launch import supervisor_client as watch_module
from mimo_core.launch.exit_handling import Ending
from mimo_core.launch.failure import Failure
from mimo_core.launch.protocol import (
    LONGEST_LINE,
    LONGEST_TEXT,
    LONGEST_TOKEN,
    TOKEN,
    Lines,
    Malformed,
    decode,
    encode,
    new_token,
    take_token,
)
from mimo_core.launch.rank_env import Rank
from mimo_core.launch.store import Place, find_hub, publish_hub
from mimo_core.launch.supervisor import ABSENT, Supervisor
from mimo_core.launch.supervisor_client import SupervisorClient
from mimo_core.reporting.run_directory import RunDirectory

from ..helpers.hypothesis_settings import examples
from ..helpers.problems import refused
from ..helpers.runs import TIMEOUT

OWN = "0" * 64
FAILURE = {"rank": 1, "label": "rank 1", "message": "planted", "log": None}


def hub(folder: Path, timeout: float = TIMEOUT, world_size: int = 2) -> Supervisor:
    return Supervisor(
        address="127.0.0.1",
        world_size=world_size,
        folder=RunDirectory(folder),
        timeout=timeout,
        token=OWN,
    )


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def say(connection: socket.socket, **message: object) -> None:
    connection.sendall(encode(message))


def joined(port: int, rank: int) -> socket.socket:
    connection = connect(port)
    connection.sendall(OWN.encode() + b"\n")
    say(connection, join=rank, screen=rank)
    return connection


def heard(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline())


def closed(connection: socket.socket) -> bool:
    """Whether the hub has closed a connection, after what it may have sent."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_failure_is_told_to_all_and_to_who_comes_later(tmp_path: Path) -> None:
    port = hub(tmp_path).port
    zero, one = joined(port, 0), joined(port, 1)
    assert heard(zero) == heard(one) == {"folder": str(tmp_path)}
    say(one, label="rank 1 (language)")
    one.close()
    failure = heard(zero)["failure"]
    assert (failure["label"], failure["silent"]) == ("rank 1 (language)", True)
    assert failure["log"] == str(tmp_path / "logs" / "rank-1.log")
    say(zero, failure={**failure, "label": "what follows from it"})
    assert heard(joined(port, 1)) == {"failure": failure}


def test_ranks_that_end_well_one_after_the_other_raise_no_alarm(tmp_path: Path) -> None:
    watching = hub(tmp_path)
    zero, one = joined(watching.port, 0), joined(watching.port, 1)
    assert heard(zero) == heard(one)
    watching.wait_for_others(0.2)
    say(one, done=True)
    one.close()
    watching.wait_for_others()
    zero.settimeout(0.5)
    with pytest.raises(TimeoutError):
        zero.recv(1)


def test_ranks_that_do_not_appear_are_named(tmp_path: Path) -> None:
    zero = joined(hub(tmp_path, timeout=0.1).port, 0)
    failure = heard(zero)["failure"]
    assert "ranks [1] " in failure["message"]
    assert failure["message"].endswith(f" [{ABSENT}]") and failure["error_code"] == ABSENT


STOP = encode({"failure": {**FAILURE, "code": 0}})
"""Once ended training with exit code 0."""
INFINITE = b'{"join": Infinity, "screen": 0}\n'
"""Once ended the hub's thread."""
ANY_FILE = encode({"failure": {**FAILURE, "log": "/etc/passwd"}})
"""Once had a file of the machine on the operator's screen."""
HOSTILE = {
    "a failure that ends the run well": STOP,
    "infinity": INFINITE,
    "any file": ANY_FILE,
    "nothing": b"\n",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a guess": b"1" * 64 + b"\n" + STOP,
    "the first half of the token": OWN[:32].encode() + b"\n" + STOP,
    "more than the token": OWN.encode() + b"0\n" + STOP,
    "random bytes": os.urandom(4096),
    "a line without an end": b"0" * (LONGEST_TOKEN + 1),
    "megabytes": b"[" * (8 << 20),
    "deep": b"[" * 100000 + b"\n",
    "not UTF-8": b"\xff\xfe\n",
}


def test_nothing_is_read_before_the_token(tmp_path: Path) -> None:
    """Each is closed, the run's ranks join, train on past them, and end properly."""
    watching = hub(tmp_path)
    zero, one = joined(watching.port, 0), joined(watching.port, 1)
    assert heard(zero) == heard(one)
    for kind, sent in HOSTILE.items():
        with connect(watching.port) as stranger:
            with suppress(ConnectionError):
                stranger.sendall(sent)
            assert closed(stranger), kind
    say(one, done=True)
    watching.wait_for_others(TIMEOUT)
    zero.settimeout(0.2)
    with pytest.raises(TimeoutError):
        zero.recv(1)


WRONG = [
    *(b"[]\n", b"1\n", b"null\n", b'"join"\n', b"{}\n{\n", b"\xff\n", b"[" * 100000 + b"\n"),
    b"0" * (LONGEST_LINE + 1),
    *(
        encode(message)
        for message in (
            *({"join": join, "screen": 0} for join in (None, -1, 2, 1e9, "0", [], True)),
            {"join": 1},
            *({"failure": failure} for failure in (None, [], {}, "x", {"rank": 1})),
            {"failure": {**FAILURE, "rank": "1"}},
            {"failure": {**FAILURE, "label": ["x"]}},
            {"failure": {**FAILURE, "code": 1e300}},
            {"failure": {**FAILURE, "time": None}},
            {"failure": {**FAILURE, "unknown": 1}},
        )
    ),
    INFINITE,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[:40].decode(errors="replace"))
def test_a_message_that_no_rank_sends_ends_the_run_by_the_rank_that_sent_it(
    wrong: bytes, tmp_path: Path
) -> None:
    """Such as one of another version of the program. Another rank is told, and the hub lives."""
    port = hub(tmp_path).port
    zero, one = joined(port, 0), joined(port, 1)
    assert heard(zero) == heard(one)
    with suppress(ConnectionError):
        one.sendall(wrong)
    failure = heard(zero)["failure"]
    assert failure["rank"] == 1 and "sent a message that rank 0 cannot read" in failure["message"]
    assert "failure" in heard(joined(port, 1))


def test_an_exception_of_the_hub_itself_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watching, accept = hub(tmp_path), Supervisor._accept
    failed = threading.Event()

    def fail(self: Supervisor) -> None:
        failed.set()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Supervisor, "_accept", fail)
    zero = joined(watching.port, 0)
    assert failed.wait(TIMEOUT)
    monkeypatch.setattr(Supervisor, "_accept", accept)
    one = joined(watching.port, 1)
    assert heard(zero) == heard(one) == {"folder": str(tmp_path)}
    monkeypatch.setattr(Supervisor, "_handle", lambda *_: 1 / 0)
    say(one, label="rank 1")
    assert "ZeroDivisionError" in heard(zero)["failure"]["message"]
    assert "Too many open files" in capsys.readouterr().err


def test_idle_connections_keep_no_rank_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are kept open; those that are left are closed after a time."""
    monkeypatch.setattr(hub_module, "_STRANGERS", 4)
    watching = hub(tmp_path)
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(watching.port)) for _ in range(30)]
        zero, one = joined(watching.port, 0), joined(watching.port, 1)
        assert heard(zero) == heard(one) == {"folder": str(tmp_path)}
        assert closed(idle[0])
        until(lambda: len(watching._members) <= 2 + 6)
        monkeypatch.setattr(hub_module, "_TOKEN_SECONDS", 0.0)
        assert all(closed(connection) for connection in idle)
    until(lambda: len(watching._members) == 2)


def test_a_rank_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    port = hub(tmp_path).port
    zero = joined(port, 0)
    assert "is RANK set twice to 0?" in heard(joined(port, 0))["refused"]
    one = joined(port, 1)
    assert heard(zero) == heard(one) == {"folder": str(tmp_path)}


def test_a_failure_names_no_other_log_and_shows_no_control_characters(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path)
    folder.logs.mkdir()
    folder.log(1).write_text("\x1b]0;title\x07 \u202e of the log\n")
    received = {**FAILURE, "message": "a\x1b[2J\x9b\nb", "label": "\x1b[31mrank 1", "log": "/etc/x"}
    failure = Failure.from_message(received, folder)
    assert failure.log == str(folder.log(1))
    text = failure.text()
    assert text.splitlines()[0] == r"\x1b[31mrank 1 failed: a\x1b[2J\x9b"
    assert r"  | \x1b]0;title\x07 \u202e of the log" in text.splitlines()
    assert Failure.from_json(failure.to_json(), folder) == failure


@pytest.mark.parametrize("planted", ["link", "linked folder", "pipe"])
def test_a_log_that_is_elsewhere_is_not_shown(planted: str, tmp_path: Path) -> None:
    folder, secret = RunDirectory(tmp_path / "run"), tmp_path / "elsewhere" / "rank-1.log"
    folder.path.mkdir()
    secret.parent.mkdir()
    secret.write_text("secret\n")
    if planted == "linked folder":
        folder.logs.symlink_to(secret.parent)
    else:
        folder.logs.mkdir()
        if planted == "link":
            folder.log(1).symlink_to(secret)
        else:
            os.mkfifo(folder.log(1))
    text = Failure.from_message({**FAILURE, "log": "x"}, folder).text()
    assert text == "rank 1 failed: planted"


def test_a_long_message_arrives_in_part(tmp_path: Path) -> None:
    failure = Failure(rank=1, label="rank 1", message="\U0001f600" * (1 << 20), log=None)
    assert len(failure.message) <= LONGEST_TEXT
    assert len(encode({"failure": attrs.asdict(failure)})) < LONGEST_LINE
    port = hub(tmp_path).port
    zero, one = joined(port, 0), joined(port, 1)
    assert heard(zero) == heard(one)
    say(one, failure=attrs.asdict(failure))
    assert heard(zero)["failure"]["message"] == failure.message


@pytest.mark.parametrize("length", [10, LONGEST_TEXT, 1 << 20])
def test_a_message_of_any_length_ends_with_its_code(length: int) -> None:
    message = "x" * length + " [data.no-labels]"
    failure = Failure(rank=1, label="rank 1", message=message, log=None)
    assert failure.message.endswith(" [data.no-labels]") and len(failure.message) <= LONGEST_TEXT


@pytest.mark.parametrize("worker", [False, True])
def test_the_failure_of_a_rank_has_the_code_of_its_error(worker: bool, tmp_path: Path) -> None:
    """Out of a loader worker, an error arrives as the text of its traceback."""
    error: Exception = SampleError("sample a/1 is too long", code="sample.too-long")
    if worker:
        name = f"{SampleError.__module__}.{SampleError.__qualname__}"
        error = SampleError(
            f"Caught SampleError in DataLoader worker process 0.\nTraceback …\n{name}: {error}"
        )
    folder = RunDirectory(tmp_path)
    rank = Rank(rank=0, local_rank=0, world_size=1)
    failure = Ending(rank=rank, label="rank 0", folder=folder).failure(error)
    assert failure.message == "sample a/1 is too long [sample.too-long]"
    assert Failure.from_json(failure.to_json(), folder).error_code == "sample.too-long"
    assert Ending(rank=rank, label="", folder=folder).failure(OSError("x [a.b]")).error_code == ""


def test_ranks_that_torchrun_restarts_meet_past_what_the_store_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's store still names the hub of the attempt before, and holds its other keys."""
    store = dist.HashStore()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        publish_hub(store, gone.getsockname()[1], new_token())
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    tried = threading.Event()

    def find(*given: Any) -> Place:
        if found := find_hub(*given):
            tried.set()
        return found

    monkeypatch.setattr(watch_module, "open_store", lambda *_: store)
    monkeypatch.setattr(watch_module, "find_hub", find)
    joined: dict[int, SupervisorClient] = {}

    def join(number: int) -> None:
        rank = Rank(rank=number, local_rank=number, world_size=2, one_machine=True)
        folder, timeout = RunDirectory(tmp_path), datetime.timedelta(seconds=TIMEOUT)
        joined[number] = SupervisorClient.join(rank, folder, timeout, lambda _: None)

    threads = [threading.Thread(target=join, args=(number,), daemon=True) for number in (1, 0)]
    threads[0].start()
    assert tried.wait(TIMEOUT)
    threads[1].start()
    for number, thread in ((1, threads[0]), (0, threads[1])):
        thread.join(TIMEOUT)
        assert number in joined
    joined[0].store.set("key", "of this attempt")
    assert joined[1].store.get("key") == b"of this attempt"
    assert not joined[1].store.check(["mimo/hub"]), "keys of another attempt are not seen"
    joined[1].leave()
    joined[0].leave()


@pytest.mark.parametrize("token", ["", "short", "x" * 257, "0" * 20 + "\n", "é" * 20])
def test_a_token_that_cannot_be_one_is_refused(token: str) -> None:
    with refused("launch.token", variable=TOKEN):
        take_token({TOKEN: token})


def test_a_token_is_taken_from_the_environment() -> None:
    environ = {TOKEN: new_token(), "PATH": ""}
    assert take_token(environ) != new_token()
    assert environ == {"PATH": ""} and take_token(environ) is None


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Supervisor, socket.socket]]:
    watching = hub(tmp_path_factory.mktemp("fuzzed"))
    zero, one = joined(watching.port, 0), joined(watching.port, 1)
    assert heard(zero) == heard(one)
    yield watching, zero
    say(one, done=True)
    watching.wait_for_others(TIMEOUT)
    zero.settimeout(0.2)
    with pytest.raises(TimeoutError):
        zero.recv(1)


@examples(100)
@given(sent=st.lists(st.binary(max_size=600), max_size=4))
def test_any_bytes_before_the_token_change_nothing(
    sent: list[bytes], fuzzed: tuple[Supervisor, socket.socket]
) -> None:
    watching, _ = fuzzed
    with connect(watching.port) as stranger, suppress(OSError):
        for part in sent:
            stranger.sendall(part)
        stranger.shutdown(socket.SHUT_WR)
        assert closed(stranger)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@examples(100)
@given(
    message=st.dictionaries(
        st.sampled_from([f.name for f in attrs.fields(Failure)] + ["x"]),
        JSON | st.just("a") | st.just(1),
    )
    | JSON
)
def test_any_failure_is_read_or_malformed(message: object) -> None:
    folder = RunDirectory(Path("/run"))
    try:
        failure = Failure.from_message(message, folder)
    except Malformed:
        return
    assert failure.log in (None, str(folder.log(failure.rank)))
    assert Failure.from_json(failure.to_json(), folder).label == failure.label


@examples(100)
@given(sent=st.binary(max_size=200), size=st.integers(1, 50))
def test_lines_are_bounded_and_any_line_is_decoded_or_malformed(sent: bytes, size: int) -> None:
    lines, found = Lines(longest=40), []
    with suppress(Malformed):
        for start in range(0, len(sent), size):
            lines.add(sent[start : start + size])
            while (line := lines.next()) is not None:
                found.append(line)
    assert sent.startswith(b"".join(line + b"\n" for line in found))
    assert all(len(line) <= 40 for line in found)
    for line in found:
        with suppress(Malformed):
            assert isinstance(decode(line), dict)
