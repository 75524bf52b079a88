"""What tests of the core and of all plugins share: where the ranks of their runs come from."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_core.launch.fork_server.client import PROGRAM
from mimo_core.launch.local_ranks import WARM as OF_RUNS
from mimo_core.platforms import no_gpu
from mimo_core.testing.ranks import WARM as OF_TESTS
from mimo_core.utils.environment import PLATFORM, THREADS

os.environ.setdefault(PLATFORM, "cpu")
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")

NURSERIES = Path(__file__).parent / "tests" / "_fork_server"
MORE = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "megatron.core.models.vision.radio",
    "transformers.core_model_loading",
    "transformers.models.auto.modeling_auto",
    "transformers.models.clip.modeling_clip",
)


@pytest.fixture(scope="session", autouse=True)
def one_import() -> Iterator[None]:
    """Ranks need seconds to import what they need; those of all runs of a session share it (Linux).

    Runs that tests of processes look into are started as users start them: ``real_nurseries``.
    """
    if sys.platform != "linux":
        yield
        return
    name = f"mimo-nurseries-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(64)
        command = [sys.executable, "-P", NURSERIES / "server.py", str(listener.fileno())]
        server = subprocess.Popen(
            [*command, *dict.fromkeys([*OF_RUNS, *OF_TESTS, *MORE])],
            pass_fds=[listener.fileno()],
            env=os.environ | {THREADS: os.environ.get(THREADS) or "1"},
        )
    os.environ[PROGRAM] = shlex.join(["-I", "-S", str(NURSERIES / "request.py"), name])
    yield
    del os.environ[PROGRAM]
    server.kill()
    server.wait()


@pytest.fixture(autouse=True)
def platform_of_ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks run on CPUs on every machine; those of tests marked ``gpu`` on a GPU."""
    if request.node.get_closest_marker("gpu") is None:
        return
    monkeypatch.setenv(PLATFORM, "cuda")
    if VISIBLE_GPUS is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE_GPUS)
    if (why := no_gpu()) is not None:
        pytest.skip(f"needs a CUDA GPU: {why}")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """A test draws the same random numbers, whichever tests ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def real_nurseries() -> Iterator[None]:
    """Runs have a nursery that their launcher starts, as users have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PROGRAM, raising=False)
        yield
