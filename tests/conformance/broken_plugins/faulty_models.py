"""Language models with one fault each; imports torch and megatron."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel


class LooksAhead(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, decoder_input: Any, **named: Any) -> Any:
        mean = decoder_input.mean(0, keepdim=True)
        return super().forward(*given, decoder_input=decoder_input + mean, **named)


class Transposed(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named).transpose(0, 1)


class WithMore(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named), None


class Deaf(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, decoder_input: Any, **named: Any) -> Any:
        return super().forward(*given, decoder_input=torch.ones_like(decoder_input), **named)


class RunsOn(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, packed_seq_params: Any = None, **named: Any) -> Any:
        return super().forward(*given, **named)


class NoGradients(HybridModel):  # type: ignore[misc]
    def forward(self, *given: Any, **named: Any) -> Any:
        if not next(self.parameters()).requires_grad:
            with torch.no_grad():
                return super().forward(*given, **named)
        return super().forward(*given, **named)
