"""What a rank process knows of itself, from the environment that torchrun, SLURM or we set."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from contextlib import suppress

import attrs

from mimo_core.errors import MimoError

_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@attrs.frozen(kw_only=True)
class Rank:
    """One process of the world."""

    rank: int
    local_rank: int
    world_size: int
    screen: int = 0
    """Ranks with the same number write to one screen: a torchrun agent's; under ``srun`` all do."""
    one_machine: bool = False
    """Whether all ranks are on this machine: nothing of the run has to be reached from others."""

    @property
    def speaks(self) -> bool:
        """Whether this rank tells its screen of the failures of ranks on other ones."""
        return self.rank == 0 or (self.screen > 0 and self.local_rank == 0)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Rank | None:
        """``None`` outside of a launched rank.

        torchrun (and our own launcher) set ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``; ``srun``
        with several tasks sets its own names, ``MASTER_ADDR`` and ``MASTER_PORT`` being the
        user's to set.

        Raises:
            ValueError: ``RANK`` without ``WORLD_SIZE`` or ``LOCAL_RANK``, or ranks without a
                meeting point.
        """
        environ = os.environ if environ is None else environ
        if "RANK" in environ:
            names = {name: name for name in _SLURM}
        elif int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environ:
            names = _SLURM
        else:
            return None
        try:
            texts = {names[name]: environ[names[name]] for name in _SLURM}
        except KeyError as missing:
            raise MimoError(
                f"{names['RANK']} is set, but {missing} is not; start ranks by torchrun or srun, "
                "or unset it to have mimo-pretrain start them",
                code="environment.missing-variable",
                variable=missing.args[0],
            ) from None
        values = {name: _number(names[name], texts[names[name]]) for name in _SLURM}
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in environ:
                raise MimoError(
                    f"{name} is not set; all ranks need the address and a free port of the first "
                    "node. Under SLURM: export MASTER_PORT=29500 MASTER_ADDR=$(scontrol show "
                    'hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                    code="environment.missing-variable",
                    variable=name,
                )
        return cls(
            rank=values["RANK"],
            local_rank=values["LOCAL_RANK"],
            world_size=values["WORLD_SIZE"],
            screen=int(environ.get("GROUP_RANK", "0")) if names is not _SLURM else 0,
            one_machine=_on_one_machine(environ, slurm=names is _SLURM),
        )

    def export(self) -> None:
        """Set the names that torch.distributed and megatron read.

        If all ranks are on this machine, Gloo and NCCL listen on the loopback, unless the user has
        chosen another interface.
        """
        os.environ["RANK"] = str(self.rank)
        os.environ["WORLD_SIZE"] = str(self.world_size)
        os.environ["LOCAL_RANK"] = str(self.local_rank)
        if self.one_machine:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


def _on_one_machine(environ: Mapping[str, str], *, slurm: bool) -> bool:
    if environ["MASTER_ADDR"] in _LOOPBACK:
        return True
    if slurm:
        nodes = environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES"))
        return nodes == "1"
    return environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"]


_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PORTS = range(20000, 32768)
"""Below those that Linux gives to connections, which would take a free port before it is used."""


def free_port() -> int:
    """A TCP port of the loopback that is free now.

    Raises:
        MimoError: none was found.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise MimoError(
        f"no free TCP port between {_PORTS.start} and {_PORTS.stop - 1}",
        code="launch.port-in-use",
        ports=(_PORTS.start, _PORTS.stop - 1),
    )


def _number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MimoError(
            f"{variable}={text}: expected a whole number",
            code="environment.invalid-value",
            variable=variable,
            value=text,
        ) from None
