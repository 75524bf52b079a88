"""What the tests run on one rank; results go back as JSON values."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from mimo_plugin_whisper.plugin import build_submodule, describe_module, param_mappings
from safetensors.torch import load_file
from whisper_models import (
    build_model,
    largest_gap,
    make_groups,
    parts_of,
    random_batch,
    sharded_state,
)
from whisper_tiny import tiny_module

from mimo_core import Grid, MediaItem
from mimo_core.testing.weights import (
    gradients_as_in_files,
    put_gradients,
    read_parts,
    tensors_as_in_files,
    unnamed,
)

VARIANTS: list[dict[str, Any]] = [
    {},
    {"stack": 3, "projector_bias": False},
    {"windows": "padded", "projector": "mlp"},
    {"window": 0.16, "projector": "mlp", "projector_bias": False, "ffn_hidden_size": 24},
]


def one_rank(platform: Any) -> dict[str, Any]:
    """Every check that needs no second rank, in one process."""
    groups = make_groups({"audio": Grid()}, platform)["audio"]
    return {
        "variants": [_variant(options, groups, platform) for options in VARIANTS],
        "bf16": _bf16(groups, platform),
        "outside": int(build_submodule(tiny_module(tp=2), None, platform).config.hidden_size),
        "unknown_fields": sorted(
            describe_module(tiny_module()).owned_config_fields
            - {field.name for field in dataclasses.fields(TransformerConfig)}
        ),
        "alone": _alone(groups, platform),
        "stacked": _stacked(groups, platform),
        "noise": {share: _noise(groups, platform, dropout=share) for share in (0.0, 0.5)},
        "reference": [
            _reference(lengths, groups, platform) for lengths in ((12, 12), (12, 5, 1, 8))
        ],
    }


def _variant(options: dict[str, Any], groups: Any, platform: Any) -> dict[str, Any]:
    from mimo_plugin_whisper.windows import window_positions

    module = tiny_module(**options)
    model = build_model(module, groups, platform)
    shapes = [(5000, 16_000), (1000, 8_000)]
    lengths = [n for shape in shapes for n in window_positions(shape, module.options)]
    rows = model["tower"](**random_batch(lengths, module.options.mel_bins))
    projected = model["projector"](rows)
    projected.square().sum().backward()
    parameters = dict(model.named_parameters())
    description = describe_module(module)
    media = [MediaItem(modality="audio", shape=shape, load=lambda _: None) for shape in shapes]
    return {
        "rows": list(rows.shape),
        "expected_rows": [sum(description.count_positions(media)), description.hidden_size],
        "projected": list(projected.shape),
        "zero_gradient": [
            name
            for name, parameter in parameters.items()
            if parameter.grad is None
            or not parameter.grad.isfinite().all()
            or not parameter.grad.count_nonzero()
        ],
        "unnamed": unnamed(module, param_mappings(module), parts_of(model), groups),
        "unsaved": sorted(parameters.keys() - sharded_state(model, groups).keys()),
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "described": description.num_parameters,
    }


def _bf16(groups: Any, platform: Any) -> str:
    """Precision of the projected rows."""
    model = build_model(tiny_module(precision="bf16"), groups, platform)
    return str(model["projector"](model["tower"](**random_batch([4, 2], 8))).dtype)


def _alone(groups: Any, platform: Any) -> float:
    """Windows of different lengths together, against each alone."""
    tower = build_model(tiny_module(), groups, platform)["tower"].eval()
    batch = random_batch([12, 3, 7], 8)
    apart = []
    for mel, length in zip(batch["mels"], batch["lengths"], strict=True):
        bounds = torch.tensor([0, length], dtype=torch.int32)
        apart.append(tower((length,), bounds, mels=mel[None, :, : 2 * length]))
    return largest_gap(tower(**batch), torch.cat(apart))


def _stacked(groups: Any, platform: Any) -> bool:
    """Rows of three positions each, against the positions one after the other."""
    plain = build_model(tiny_module(), groups, platform)["tower"].eval()
    stacked = build_model(tiny_module(stack=3), groups, platform)["tower"].eval()
    stacked.load_state_dict(plain.state_dict())
    batch = random_batch([12, 3], 8)
    joined = [torch.cat(list(rows)) for rows in plain(**batch).split(3)]
    return torch.equal(stacked(**batch), torch.stack(joined))


def _noise(groups: Any, platform: Any, **options: Any) -> dict[str, bool]:
    """Whether the rows change with the seed, in training and in evaluation."""
    tower = build_model(tiny_module(**options), groups, platform)["tower"]

    def changes() -> bool:
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(tower(**random_batch([12, 4], 8)))
        return not torch.equal(*outputs)

    return {"training": changes(), "evaluation": (tower.eval(), changes())[1]}


def _reference(lengths: Sequence[int], groups: Any, platform: Any) -> dict[str, Any]:
    """The tower and transformers' WhisperEncoder, begun from one directory as the latter saves it.

    A window that is shorter than the table of positions is given to an encoder with the beginning
    of the table.

    Returns:
        ``gaps``: largest difference of the rows of each window; ``size``: their largest value;
        ``gradients``: largest difference of each gradient by its name in the directory, as a share
        of that gradient's largest value; ``exported``: names whose tensors are not those that were
        read, to the last bit.
    """
    module = tiny_module()
    model = build_model(module, groups, platform)
    weights, tower = param_mappings(module), {"encoder": model["tower"].eval()}
    theirs = _reference_of(module)
    table = theirs.embed_positions.weight.detach().clone()
    batch = random_batch(lengths, module.options.mel_bins)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        read_parts(module, weights, tower, groups, Path(folder))
        begun = load_file(Path(folder) / "model.safetensors")
        exported = tensors_as_in_files(module, weights, tower, groups)
        expected = []
        for mel, length in zip(batch["mels"], lengths, strict=True):
            theirs.config.max_source_positions = length
            theirs.embed_positions = torch.nn.Embedding.from_pretrained(table[:length])
            expected.append(theirs(mel[None, :, : 2 * length]).last_hidden_state[0])
        rows = model["tower"](**batch)
        # Every value counts, each with a factor of its own.
        factors = torch.randn_like(rows)
        for output in (torch.cat(expected), rows):
            (output * factors).sum().backward()
        put_gradients([theirs])
        theirs.save_pretrained(folder)
        due = load_file(Path(folder) / "model.safetensors")
    gradients = gradients_as_in_files(module, weights, tower, groups)
    del gradients["embed_positions.weight"]
    return {
        "gaps": [largest_gap(*pair) for pair in zip(rows.split(lengths), expected, strict=True)],
        "size": float(torch.cat(expected).abs().max()),
        "gradients": {
            name: largest_gap(gradient, due[name]) / float(due[name].abs().max())
            for name, gradient in gradients.items()
        },
        "exported": [
            name
            for name in begun.keys() | exported.keys()
            if name not in begun
            or name not in exported
            or not torch.equal(begun[name], exported[name])
        ],
    }


def _reference_of(module: Any) -> Any:
    """transformers' encoder of the config that is exported, no weight at a value that hides it."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(**param_mappings(module).exported_config)
    reference = WhisperEncoder(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return reference
