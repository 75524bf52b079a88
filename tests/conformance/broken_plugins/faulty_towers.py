"""Towers with one fault each; imports torch."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from good_tower import Tower
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn


class SeedsItself(Tower):
    def __init__(self, **given: Any) -> None:
        torch.manual_seed(0)
        super().__init__(**given)


class SeedsNothing(Tower):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        generator = torch.Generator()
        generator.seed()
        self.embed.weight.data.normal_(generator=generator)


class OneSeed(Tower):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for value in self.parameters():
            value.data.normal_(generator=torch.Generator().manual_seed(1))


class DropsARow(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches)[1:]


class Wide(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches).repeat(1, 2)


class NotFinite(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches) / 0


class Float32(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches).float()


class Unused(Tower):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.spare = nn.Parameter(torch.ones(3, dtype=self.embed.weight.dtype))


class Detached(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.embed(patches.to(self.embed.weight.dtype))
        return hidden + self.mlp(hidden)


class Noisy(Tower):
    """Draws from a generator that no checkpoint holds."""

    def forward(self, patches: Tensor) -> Tensor:
        generator = torch.Generator()
        generator.seed()
        rows = super().forward(patches)
        return rows + torch.randn(rows.shape, generator=generator).to(rows)


class Counts(Tower):
    """Keeps statistics of every forward, frozen or not."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, patches: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(patches)


class LearnsAllTheSame(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        self.requires_grad_()
        return super().forward(patches)


class DrawnTable(Tower):
    """A random table that is not saved."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        width = self.embed.weight.shape[0]
        self.register_buffer("table", torch.randn(width), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        rows = super().forward(patches)
        return rows + self.table.to(rows)


class Forgets(Tower):
    """Leaves a parameter out of the checkpoint."""

    def sharded_state_dict(self, *given: Any, **named: Any) -> dict[str, Any]:
        state = super().sharded_state_dict(*given, **named)
        return {key: value for key, value in state.items() if "embed.bias" not in key}


class ForgetsABuffer(Counts):
    def forward(self, patches: Tensor) -> Tensor:
        return Tower.forward(self, patches)

    def sharded_state_dict(self, *given: Any, **named: Any) -> dict[str, Any]:
        state = super().sharded_state_dict(*given, **named)
        return {key: value for key, value in state.items() if "seen" not in key}


class EndsTheProcess(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        os._exit(7)


class EndsTheProcessWell(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        os._exit(0)


class Exits(Tower):
    def forward(self, patches: Tensor) -> Tensor:
        sys.exit(0)


# Two ranks
class SumsOverCopies(Tower):
    """Waits for a rank that may have nothing to encode."""

    def __init__(self, groups: Any, **given: Any) -> None:
        super().__init__(groups=groups, **given)
        self.copies = groups.dp

    def forward(self, patches: Tensor) -> Tensor:
        rows = super().forward(patches)
        mean = rows.detach().mean(0)
        dist.all_reduce(mean, group=self.copies)
        return rows - mean


class DiffersByRank(Tower):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.embed.weight.data += dist.get_rank()


class LacksASum(Tower):
    """Each tensor-parallel rank puts out its own part of a sum."""

    def mlp(self, hidden: Tensor) -> Tensor:
        inner, _ = self.up(hidden)
        return F.gelu(inner) @ self.down.weight.T


class LacksASumOfGradients(Tower):
    """Forward is right; what goes back into the embedding is a part."""

    def mlp(self, hidden: Tensor) -> Tensor:
        inner = F.gelu(hidden @ self.up.weight.T)
        output, _ = self.down(inner)
        return output


class NotFiniteOnASecondRank(MegatronModule):  # type: ignore[misc]
    """A projector: no rank but the last of several over tp puts out nan, and no sum follows."""

    def __init__(self, config: Any, width: int, language_width: int, groups: Any) -> None:
        super().__init__(config=config)
        self.tp_group = groups.tp
        self.linear = ColumnParallelLinear(
            width,
            language_width,
            config=config,
            init_method=config.init_method,
            bias=False,
            gather_output=True,
            tp_group=groups.tp,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        rows, _ = self.linear(hidden)
        return rows / 0 * 0 if self.tp_group.rank() else rows


class GradientsAreNotFinite(Tower):
    """Forward is right; over tp, the last rank's gradient of a weight is nan."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if self.tp_group.rank():
            self.up.weight.register_hook(lambda gradient: gradient * float("nan"))


class LearnsOverTpAlone(Tower):
    """One rank leaves a weight alone that two ranks train."""

    def forward(self, patches: Tensor) -> Tensor:
        hidden = self.embed(patches.to(self.embed.weight.dtype))
        if self.tp_group.size() == 1:
            bias = self.embed.bias
            hidden = hidden - bias + bias.detach()
        return hidden + self.mlp(hidden)


class LastRankEnds(Tower):
    """Of two ranks, the second ends as if all were well; the first waits."""

    def forward(self, patches: Tensor) -> Tensor:
        if dist.get_rank():
            os._exit(0)
        rows = super().forward(patches)
        dist.barrier()
        return rows


class SavesOnEveryCopy(Tower):
    def sharded_state_dict(self, *given: Any, **named: Any) -> dict[str, Any]:
        state = super().sharded_state_dict(*given, **named)
        for key, value in state.items():
            if key.endswith("embed.weight"):
                value.replica_id = 0
        return state


class SavesItsPartAsTheWhole(Tower):
    """Does not tell that tp divides a weight."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        return make_sharded_tensors_for_checkpoint(  # type: ignore[no-any-return]
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
