"""Routers of experts: what they count, and the scale of their losses.

megatron-core 0.19.2 (``transformer/moe/router.py``) computes these from every position that a rank
holds, and its ``padding_mask`` mends only a part of it:

- with per-token loss the balancing losses and the z-loss are multiplied by the positions that a
  router sees and divided by the tokens that are learned: their weight follows padding and prompts;
- with a mask the factor is taken from this rank's own positions, so that ranks of a tensor- or
  context-parallel group with different numbers of them give the gradient different weights; the
  z-loss averages the ranks' means instead of their positions;
- the sequence-wise loss divides every sample by the mean length of the samples;
- expert capacity counts padding, and lets it take the places of tokens;
- the load that moves the expert bias is counted after tokens are dropped, so that experts which are
  padded to their capacity never differ.

:class:`OwnPositionsRouter` computes them from the positions of samples only. A balancing loss has
the gradient ``coefficient x mean over microbatches and data-parallel ranks``, whatever the number
of learned tokens.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    apply_router_token_dropping,
    compute_routing_scores_for_aux_loss,
    topk_routing_with_score_function,
)
from megatron.core.transformer.moe.router import TopKRouter

from mimo_core.errors import MimoError, PluginError

PADDING = "padding_mask"
"""The argument of core's models that holds where padding is, and the key of a batch."""

_REFUSED_TYPES = {
    "sinkhorn": "it normalises over all positions, padding among them",
    "quantile_balancing": "megatron-core 0.19 computes it from all positions, padding among them",
    "global_aux_loss": "megatron-core 0.19 takes its counts of the whole global batch over the "
    "tokens of one microbatch",
}


class OwnPositionsRouter(TopKRouter):  # type: ignore[misc]
    """``TopKRouter`` that counts the positions of samples, and no padding."""

    loss_scale: torch.Tensor
    """Factor on the balancing losses, float32 ``[]`` on the device; see
    :meth:`Routers.begin_step`."""

    def routing(
        self, logits: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and choice of experts for each position, both ``[T, experts]``.

        Called by all ranks of the tensor- and context-parallel group.

        Args:
            logits: ``[S, B, experts]``; ``T`` is ``S B``.
            padding_mask: True where a position is padding, bool ``[S, B]``.
        """
        batch = logits.shape[1]
        logits = logits.view(-1, self.config.num_moe_experts)
        if padding_mask is None:
            own = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        else:
            own = ~padding_mask.reshape(-1)
        learning = self.training and torch.is_grad_enabled()
        if learning and self.config.moe_z_loss_coeff:
            logits = self._with_z_loss(logits, own)
        probabilities, chosen = topk_routing_with_score_function(
            logits,
            self.topk,
            use_pre_softmax=self.config.moe_router_pre_softmax,
            num_groups=self.config.moe_router_num_groups,
            group_topk=self.config.moe_router_group_topk,
            scaling_factor=self.config.moe_router_topk_scaling_factor,
            score_function=self.score_function,
            expert_bias=self.expert_bias,
            fused=self.config.moe_router_fusion,
            router_replay=self.router_replay,
        )
        routed = chosen
        if self.config.moe_expert_capacity_factor is not None:
            probabilities, routed = self._within_capacity(probabilities, chosen, own)
        if learning and self.is_aux_loss_enabled():
            probabilities = self._balanced(probabilities, logits, own, batch)
        if learning and self.enable_expert_bias and not self.frozen_expert_bias:
            with torch.no_grad():
                self.local_tokens_per_expert += _where_own(chosen, own).sum(0)
        return probabilities, routed

    def _with_z_loss(self, logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Attach the mean of the squared log-sums of own positions."""
        squares = torch.logsumexp(logits.float(), dim=-1).square()
        total = self._over_ranks(own.sum().float()).clamp(min=1)
        loss = self.config.moe_z_loss_coeff * torch.where(own, squares, 0.0).sum() / total
        return self._attached(logits, loss)

    def _balanced(
        self, probabilities: torch.Tensor, logits: torch.Tensor, own: torch.Tensor, batch: int
    ) -> torch.Tensor:
        """Attach the balancing losses.

        A sequence of ``T`` positions has the loss ``E sum_e(f_e P_e)`` where ``f_e`` is the part of
        the ``T topk`` choices that fell on expert ``e``, and ``P_e`` the mean of its scores. The
        whole microbatch is one sequence for ``aux_loss``, each sample for ``seq_aux_loss``.
        """
        chosen, scores = compute_routing_scores_for_aux_loss(
            logits, self.topk, self.score_function, fused=self.config.moe_router_fusion
        )
        chosen, scores = _where_own(chosen, own), _where_own(scores, own)
        for kind, sequences in (("aux_loss", 1), ("seq_aux_loss", batch)):
            coefficient = self.get_aux_loss_coeff(kind)
            if not coefficient:
                continue
            # Positions vary before samples: [S, B] flattened.
            shape = (-1, sequences, self.config.num_moe_experts)
            counts, sums = chosen.view(shape).sum(0), scores.view(shape).sum(0)
            lengths = own.view(-1, sequences).sum(0)
            both = self._over_ranks(torch.cat([counts, lengths[:, None].float()], dim=1).detach())
            counts, lengths = both[:, :-1], both[:, -1:]
            divisor = self.topk * lengths.square().clamp(min=1)
            losses = self.config.num_moe_experts * (counts * sums / divisor).sum(1)
            number = (lengths > 0).sum().clamp(min=1)
            probabilities = self._attached(probabilities, coefficient * losses.sum() / number)
        return cast(torch.Tensor, probabilities)

    def _within_capacity(
        self, probabilities: torch.Tensor, chosen: torch.Tensor, own: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop padding, and tokens beyond the capacity that own positions of this rank give."""
        config = self.config
        chosen = chosen.bool() & own[:, None]
        experts, factor = config.num_moe_experts, config.moe_expert_capacity_factor
        # As core's get_capacity, on the device: a number of the host would have to wait for it.
        capacity = (own.sum().double() * self.topk / experts * factor).ceil()
        if config.moe_token_drop_policy == "probs":
            order = torch.where(chosen, probabilities, -1.0).detach()
            order = order.argsort(dim=0, descending=True, stable=True)
            places = torch.arange(len(order), device=order.device)[:, None].expand_as(order)
            place = torch.empty_like(order).scatter_(0, order, places)
        else:
            place = chosen.long().cumsum(0) - 1
        chosen = chosen & (place < capacity)
        probabilities = torch.where(chosen, probabilities, 0.0)
        if config.moe_pad_expert_input_to_capacity:
            # Fills each expert up to the capacity that all positions give, with weights of 0.
            return cast(
                tuple[torch.Tensor, torch.Tensor],
                apply_router_token_dropping(
                    probabilities,
                    chosen,
                    router_topk=self.topk,
                    capacity_factor=factor,
                    drop_policy=config.moe_token_drop_policy,
                    pad_to_capacity=True,
                ),
            )
        return probabilities, chosen

    def _attached(self, activation: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """The activation, whose backward begins that of this rank's part of a loss too."""
        attached: torch.Tensor = MoEAuxLossAutoScaler.apply(activation, loss * self.loss_scale)
        return attached

    def _over_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over the ranks that share the positions of a microbatch."""
        if self.tp_cp_group.size() > 1:
            dist.all_reduce(sums, group=self.tp_cp_group)
        return sums


class Routers:
    """The routers of a language model, or of one stage of it."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: TransformerConfig,
        groups: ProcessGroupCollection,
        device: torch.device,
    ) -> None:
        """Adapt all routers of the model; once it is built, before it is wrapped.

        Args:
            model: The language model's stage on this rank.
            config: Its config.
            groups: Its process groups.
            device: Where it computes.

        Raises:
            MimoError: the model's routers, or their settings, cannot leave padding out.
        """
        self._groups = groups
        self._device = device
        self._routers = [one for one in model.modules() if isinstance(one, TopKRouter)]
        self._padding: torch.Tensor | None = None
        if not self._routers:
            return
        check_settings(config)
        if PADDING not in inspect.signature(model.forward).parameters:
            raise PluginError(
                f"module 'language': {type(model).__name__}.forward has no argument {PADDING}, so "
                "its experts' routers would count padding; take it as "
                "megatron.core.models.gpt.GPTModel does, and give it to the decoder",
                code="plugin.no-padding-mask",
                module="language",
                model=type(model).__name__,
            )
        for router in self._routers:
            _adapt(router, device)
            # A router that does not learn keeps its bias too (weights below adapters).
            router.frozen_expert_bias = not router.weight.requires_grad
        model.register_forward_pre_hook(self._with_padding, with_kwargs=True)

    def __len__(self) -> int:
        return len(self._routers)

    def begin_step(self, learned: int, microbatches: int) -> None:
        """Set the scale of balancing losses. Called by all ranks of the language model.

        All gradients are divided by the learned tokens of the global batch at the end of a step.
        The scale undoes it, and takes the mean over microbatches and data-parallel ranks.

        Args:
            learned: Learned tokens of this data-parallel rank's samples of the step.
            microbatches: Of the step.
        """
        if not self._routers:
            return
        total = torch.tensor(learned, dtype=torch.float64, device=self._device)
        dist.all_reduce(total, group=self._groups.dp)
        scale = total / (microbatches * self._groups.dp.size())
        for router in self._routers:
            router.loss_scale.copy_(scale)

    def set_padding(self, padding: torch.Tensor | None) -> None:
        """Set where padding is in the next microbatch: bool ``[B, S]`` of this rank's positions.

        Raises:
            PluginError: there are routers, and it is not known.
        """
        if self._routers and padding is None:
            raise PluginError(
                "module 'language' has experts, and its batch does not tell where padding is: its "
                "plugin must give what context.build_tokens(samples) gives, or a bool array "
                f"{PADDING} of the shape of input_ids, and the number of experts in "
                "describe_module().num_experts",
                code="plugin.no-padding-mask",
                module="language",
            )
        self._padding = padding

    def _with_padding(self, _model: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {PADDING: self._padding, **kwargs}


def has_losses(config: TransformerConfig) -> bool:
    """Whether the routers of a model with this config have losses."""
    return bool(config.num_moe_experts) and bool(_balancing(config) or config.moe_z_loss_coeff)


def check_settings(config: TransformerConfig) -> None:
    """Whether routers with these settings can leave padding out.

    Raises:
        MimoError: names the setting.
    """
    kinds = config.moe_router_load_balancing_type
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind in _REFUSED_TYPES:
            raise MimoError(
                f"module 'language': moe_router_load_balancing_type {kind} is refused: "
                f"{_REFUSED_TYPES[kind]}; use aux_loss, or seq_aux_loss without packing",
                code="megatron.refused-value",
                module="language",
                field="moe_router_load_balancing_type",
                value=kind,
            )
    if config.mlp_chunks_for_training > 1:
        raise MimoError(
            f"module 'language': mlp_chunks_for_training {config.mlp_chunks_for_training} does not "
            "go with experts: megatron-core 0.19 gives the chunks no padding mask "
            "(TransformerLayer._forward_mlp); leave it out",
            code="megatron.conflict",
            module="language",
            field="mlp_chunks_for_training",
            value=config.mlp_chunks_for_training,
        )


def check_packing(config: TransformerConfig) -> None:
    """Whether routers with these settings can see samples end to end in one row.

    Raises:
        MimoError: they tell samples apart by rows.
    """
    kinds = config.moe_router_load_balancing_type
    if "seq_aux_loss" in ([kinds] if isinstance(kinds, str) else kinds):
        raise MimoError(
            "modules.language.packing: seq_aux_loss tells samples apart by the rows of a batch, "
            "and packed samples share one row; set packing to false, or use aux_loss",
            code="megatron.conflict",
            module="language",
            field="moe_router_load_balancing_type",
            value="seq_aux_loss",
        )


def check_encoder(name: str, tower: torch.nn.Module, config: TransformerConfig) -> None:
    """Whether an encoder's routers, if it has any, have no losses.

    Raises:
        MimoError: names the module.
    """
    routers = [one for one in tower.modules() if isinstance(one, TopKRouter)]
    if routers and has_losses(config):
        raise MimoError(
            f"module {name!r}: an encoder's routers cannot have balancing losses: their scale "
            "follows the learned tokens of the language model; set moe_aux_loss_coeff and "
            "moe_z_loss_coeff to 0, or use router biases",
            code="megatron.refused-value",
            module=name,
            fields=("moe_aux_loss_coeff", "moe_z_loss_coeff"),
        )
    for router in routers:
        router.frozen_expert_bias = not router.weight.requires_grad


def _balancing(config: TransformerConfig) -> bool:
    coefficients = config.moe_aux_loss_coeff
    listed = coefficients if isinstance(coefficients, list) else [coefficients]
    return config.moe_router_load_balancing_type != "none" and any(listed)


def _adapt(router: TopKRouter, device: torch.device) -> None:
    kind = type(router)
    if kind.routing is not TopKRouter.routing:
        raise PluginError(
            f"module 'language': {kind.__name__} computes its routing itself, and would count "
            "padding; derive it from megatron's TopKRouter without a routing of its own",
            code="plugin.no-padding-mask",
            module="language",
            router=kind.__name__,
        )
    router.__class__ = _adapted(kind)
    router.loss_scale = torch.ones((), device=device)


@cache
def _adapted(kind: type[TopKRouter]) -> type[TopKRouter]:
    return type(kind.__name__, (OwnPositionsRouter, kind), {})


def _where_own(values: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """float32 values ``[T, experts]``, 0 where a position is padding."""
    return torch.where(own[:, None], values.float(), 0.0)
