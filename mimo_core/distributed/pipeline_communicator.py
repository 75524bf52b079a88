"""The communicator that the stock schedule drives: stages within a module, edges between modules.

Same interface as megatron-core's ``MultiModulePipelineCommunicator``. Within a module's pipeline
it is core's ``P2PCommunicator``; between modules our
:class:`~mimo_core.distributed.bridge.ModuleBridge`.

Stages are numbered from the sink, so that the last stages of all encoders, whatever their own
number of stages, sit at the same place of the 1F1B schedule.

An encoder that computes ahead does more forwards before its first backward. Its messages keep the
order of 1F1B, in which the language model has the other ends: with the rows that 1F1B would send
while it waits for gradients, the gradients are asked for, and waited for when they are needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from mimo_core.contract import LANGUAGE
from mimo_core.data.row_counts import RowCounts, RowCountSource
from mimo_core.distributed.bridge import ModuleBridge, PendingTransfer
from mimo_core.planning.rank_layout import Layout
from mimo_core.profile.recorder import message, recorder, span, wait_for

Tensors = dict[str, torch.Tensor | None]


class PipelineCommunicator:
    """One rank's communicator. Called by the schedule on every rank.

    Dictionaries of activations are keyed as the stock schedule expects: by the rank's own module,
    and on the first stage of the language model by encoder.
    """

    def __init__(
        self,
        *,
        module: str,
        layout: Layout,
        rank: int,
        config: Any,
        pp_group: Any,
        bridge: ModuleBridge,
        layers_learn: bool,
        ahead: int = 0,
    ) -> None:
        """
        Args:
            module: The module on this rank; colocated, the language model.
            layout: Where all modules are.
            rank: This world rank.
            config: The module's ``ModelParallelConfig``.
            pp_group: The module's pipeline group on this rank.
            bridge: This rank's end of the edges.
            layers_learn: Gradients travel between the module's stages. Where an encoder's tower is
                frozen they do not: what learns, its projector, is on the last stage.
            ahead: Microbatches that the module computes beyond those of 1F1B.
        """
        self.config = config
        self._layers_learn = layers_learn
        self.rows: RowCountSource | None = None
        """Where rows of the next microbatch are told; the engine switches it for evaluation."""
        self._module = module
        self._bridge = bridge
        self._stage = _Stages(pp_group, config)
        self._pp_rank = layout.coordinates(rank, module)["pp"]
        self._pp_size = layout.grids[module].pp
        # Encoders on the language model's own ranks feed it without a message.
        elsewhere = {} if layout.kind == "colocated" else layout.grids
        encoders = [grid.pp for name, grid in elsewhere.items() if name != LANGUAGE]
        self._has_encoders = bool(encoders)
        stages = layout.grids[LANGUAGE].pp
        self.total_stages = stages + max(encoders, default=0)
        after = 0 if module == LANGUAGE else stages
        stage = self.total_stages - after - (self._pp_size - self._pp_rank)
        # The schedule takes the stages after this one for the microbatches to begin with.
        self.current_stage = stage - ahead
        self._alone = self.total_stages - 1 - stage
        """Microbatches of which 1F1B sends the rows before it asks for gradients."""
        self._ahead = ahead
        self._learning = True
        self._produced: RowCounts | None = None
        self._tell_sent: Callable[[int], None] | None = None
        # Microbatches whose gradients are still to travel or to be taken, oldest first.
        self._rows_in_flight: deque[RowCounts] = deque()
        self._sent_forward = 0
        # Gradients that were asked for, oldest first.
        self._asked: deque[tuple[PendingTransfer, dict[str, torch.Tensor]]] = deque()
        self._sends: deque[PendingTransfer] = deque()

    # What the schedule asks about this rank's place
    @property
    def is_pp_first_stage(self) -> bool:
        """Nothing comes before this stage."""
        return self._pp_rank == 0 and not self._receives_bridge

    @property
    def is_pp_last_stage(self) -> bool:
        """The language model's last stage, where the loss is."""
        return self._module == LANGUAGE and self._pp_rank == self._pp_size - 1

    @property
    def _receives_bridge(self) -> bool:
        return self._module == LANGUAGE and self._pp_rank == 0 and self._has_encoders

    @property
    def _sends_bridge(self) -> bool:
        return self._module != LANGUAGE and self._pp_rank == self._pp_size - 1

    def produced(self, rows: RowCounts) -> None:
        """The forward step tells the rows of the microbatch it has just put out (encoders)."""
        self._produced = rows

    def begin(
        self,
        rows: RowCountSource,
        *,
        learning: bool,
        sent: Callable[[int], None] | None = None,
    ) -> None:
        """A run over microbatches begins: nothing is under way.

        Args:
            rows: Where the rows of its microbatches are told.
            learning: Gradients will travel back.
            sent: Called on an encoder's rank when rows have left, before gradients are waited for,
                with the number of microbatches whose rows have.
        """
        self.finish()
        self.rows = rows
        self._learning = learning
        self._sent_forward = 0
        self._tell_sent = sent

    def finish(self) -> None:
        """Wait until all that was sent has left; drop what an evaluation kept for gradients."""
        self._drain(keep=0)
        self._rows_in_flight.clear()

    # What the schedule calls
    def recv_forward(self, tensor_shapes: Any = None, is_first_stage: bool = False) -> Tensors:
        """Activations of the next microbatch from the stages before this one."""
        if self._receives_bridge:
            return self._receive_rows(send_backward=None)
        if self._pp_rank == 0:
            return {}
        return {self._module: _one(self._stage.recv_forward(tensor_shapes, is_first_stage=False))}

    def send_forward(self, output: Any, is_last_stage: bool = False) -> None:
        """This stage's activations to the stage after it."""
        if self._sends_bridge:
            self._send_rows(output, receive_backward=False)
        elif not self.is_pp_last_stage:
            self._stage.send_forward(output[self._module], is_last_stage=False)

    def recv_backward(self, tensor_shapes: Any = None, is_last_stage: bool = False) -> Tensors:
        """Gradients of the oldest microbatch's activations that are still under way."""
        if self._sends_bridge:
            return self._receive_gradients()
        if self.is_pp_last_stage:
            return {}
        if not self._layers_learn:
            return {self._module: None}
        return {self._module: _one(self._stage.recv_backward(tensor_shapes, is_last_stage=False))}

    def send_backward(self, gradients: Tensors, is_first_stage: bool = False) -> None:
        """Gradients of this stage's inputs to the stages before it."""
        if self._receives_bridge:
            transfer, _ = self._bridge.exchange(send_backward=self._gradients_to_send(gradients))
            self._sent(transfer)
        elif self._pp_rank > 0 and self._layers_learn:
            self._stage.send_backward(gradients[self._module], is_first_stage=False)

    def send_forward_recv_backward(
        self, output: Any, tensor_shapes: Any = None, is_last_stage: bool = False
    ) -> Tensors:
        """Both at once, towards the stage after this one."""
        if self._sends_bridge:
            return self._send_rows(output, receive_backward=True)
        if self.is_pp_last_stage:
            return {}
        if not self._layers_learn:
            self.send_forward(output)
            return {self._module: None}
        gradient = self._stage.send_forward_recv_backward(
            output[self._module], tensor_shapes, is_last_stage=False
        )
        return {self._module: _one(gradient)}

    def send_backward_recv_forward(
        self, gradients: Tensors, tensor_shapes: Any = None, is_first_stage: bool = False
    ) -> Tensors:
        """Both at once, towards the stages before this one."""
        if self._receives_bridge:
            return self._receive_rows(send_backward=gradients)
        if self._pp_rank == 0 or not self._layers_learn:
            return self.recv_forward(tensor_shapes)
        received = self._stage.send_backward_recv_forward(
            gradients[self._module], tensor_shapes, is_first_stage=False
        )
        return {self._module: _one(received)}

    # Language model's first stage
    def _receive_rows(self, send_backward: Tensors | None) -> Tensors:
        assert self.rows is not None
        rows = self.rows.peek_row_counts()
        outgoing = None if send_backward is None else self._gradients_to_send(send_backward)
        transfer, received = self._bridge.exchange(send_backward=outgoing, receive_forward=rows)
        transfer.wait(list(received.values()))
        self._rows_in_flight.append(rows)
        return {encoder: tensor.requires_grad_() for encoder, tensor in received.items()}

    def _gradients_to_send(self, gradients: Tensors) -> tuple[dict[str, torch.Tensor], RowCounts]:
        rows = self._rows_in_flight.popleft()
        ready = {}
        for encoder, gradient in gradients.items():
            if self._bridge.learns(encoder):
                # A model need not look at rows where there are none.
                assert gradient is not None or not sum(rows[encoder]), (
                    f"no gradient for the rows of {encoder!r}"
                )
                ready[encoder] = torch.empty(0) if gradient is None else gradient
        return ready, rows

    # Encoders' last stage
    def _send_rows(self, output: Any, *, receive_backward: bool) -> Tensors:
        assert self._produced is not None
        counts = self._produced[self._module]
        self._rows_in_flight.append(self._produced)
        asks = self._learns and self._sent_forward >= self._alone
        self._sent_forward += 1
        transfer, received = self._bridge.exchange(
            send_forward=(self._module, output[self._module], counts),
            receive_backward=self._due() if asks else None,
        )
        if asks:
            self._asked.append((transfer, received))
        else:
            self._sent(transfer)
        if self._tell_sent is not None:
            self._tell_sent(self._sent_forward)
        return self._gradients() if receive_backward else {}

    def _receive_gradients(self) -> Tensors:
        if self._learns and not self._asked:
            self._asked.append(self._bridge.exchange(receive_backward=self._due()))
        return self._gradients()

    @property
    def _learns(self) -> bool:
        return self._learning and self._bridge.learns(self._module)

    def _due(self) -> tuple[str, Sequence[int]]:
        """The microbatch whose gradients are asked for next."""
        return self._module, self._rows_in_flight[len(self._asked)][self._module]

    def _gradients(self) -> Tensors:
        self._rows_in_flight.popleft()
        if not self._learns:
            return {self._module: None}
        transfer, received = self._asked.popleft()
        shards = received[self._module]
        transfer.wait([shards])
        gradient = shards[0] if len(shards) == 1 else shards.sum(0)
        # Rows travel in the language model's precision; the module's own may be another.
        return {self._module: gradient.to(self.config.params_dtype)}

    def _sent(self, transfer: PendingTransfer) -> None:
        self._sends.append(transfer)
        self._drain(keep=self.total_stages + self._ahead)

    def _drain(self, keep: int) -> None:
        """Wait for all but the last ``keep`` transfers, whose tensors are still needed."""
        while len(self._sends) > keep:
            self._sends.popleft().wait()


class _Stages(P2PCommunicator):  # type: ignore[misc]
    """Core's, which tells a step's recorder of its messages; each is waited for at once."""

    def _communicate(self, **given: Any) -> Any:
        if recorder() is None:
            return super()._communicate(**given)
        rank = self.pp_group.rank()
        here, before, after = (self._world_rank(rank + step) for step in (0, -1, 1))
        ends = {
            "tensor_send_prev": ("gradients", here, before),
            "recv_prev": ("activations", before, here),
            "tensor_send_next": ("activations", here, after),
            "recv_next": ("gradients", after, here),
        }
        with span("exchange", "messages between stages"):
            due = [name for name in ends if given[name] is not None and given[name] is not False]
            wait_for([message(*ends[name]) for name in due])
            return super()._communicate(**given)

    def _world_rank(self, stage: int) -> int:
        return dist.get_global_rank(self.pp_group, stage % self.pp_group.size())


def _one(tensor: Any) -> torch.Tensor | None:
    """Core's stage communicator gives a list where it was given a list of shapes."""
    if isinstance(tensor, list):
        (tensor,) = tensor
    return tensor  # type: ignore[no-any-return]
