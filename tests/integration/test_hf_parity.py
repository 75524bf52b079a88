"""Three steps on eight ranks are those of transformers and ``torch.optim.AdamW``.

The judge shares nothing with the run but the directory that both begin with and the dataset's
samples: sequences, patches, loss and optimizer are written out here, one sample at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import mimo_core as mimo

from ..helpers import hugging_face_vlm as vlm
from ..helpers.runs import Run, installed, start
from ..plugins.album_plugin import Album

STEPS, BATCH, SEED = 3, 8, 11
RATE, DECAY, CLIP = 1e-3, 0.1, 0.5
PATCH = 4
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
END = 257


@attrs.frozen(kw_only=True)
class Judged:
    """The run, and what the judge says of it."""

    run: Run
    losses: list[float]
    norms: list[float]
    begun: dict[str, Tensor]
    due: dict[str, Tensor]
    """Weights after the steps, as transformers saves them."""
    exported: dict[str, Tensor]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    base = tmp_path_factory.mktemp("judged")
    begun, due, exported = (base / name for name in ("begun", "due", "exported"))
    (base / "site").mkdir()
    site = installed("album", base / "site")
    vlm.save_random(begun)
    both = [f"modules.{name}.pretrained_weights={begun}" for name in ("vision", "language")]
    run = start("judged", *both, folder=base / "run", site=site)
    assert run.code == 0, run.screen + run.errors
    export(run.folder, exported, begun, site)
    model = vlm.load(begun)
    losses, norms = train(model)
    model.save_pretrained(due)  # type: ignore[operator]
    return Judged(
        run=run,
        losses=losses,
        norms=norms,
        begun=load_file(begun / "model.safetensors"),
        due=load_file(due / "model.safetensors"),
        exported=load_file(exported / "model.safetensors"),
    )


def export(run: Path, out: Path, like: Path, site: Path) -> None:
    command = [sys.executable, "-m", "mimo_core.cli.mimo", "export", run, out, "--like", like]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {"PYTHONPATH": path}
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=1800)


def train(model: nn.Module) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the steps."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in learning if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    album = Album()
    order = np.random.default_rng([SEED, 0]).permutation(len(album))
    losses, norms = [], []
    for step in range(STEPS):
        total, count = 0.0, 0
        for index in order[step * BATCH : (step + 1) * BATCH]:
            loss, learned = sample_loss(model, album[index])
            loss.backward()
            total, count = total + loss.item(), count + learned
        for parameter in learning:
            if parameter.grad is not None:
                parameter.grad /= count
        norm = nn.utils.clip_grad_norm_(learning, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / count)
        norms.append(norm.item())
    return losses, norms


def sample_loss(model: nn.Module, sample: mimo.Sample) -> tuple[Tensor, int]:
    """Sum of the losses of what the sample teaches, and the number of labels learned."""
    ids: list[int] = []
    learn: list[bool] = []
    patches, grids = [], []
    learned = False
    for part in sample.content:
        if isinstance(part, mimo.MediaItem):
            pixels = (torch.from_numpy(part.load(None)) / 255 - torch.tensor(MEAN)) / torch.tensor(
                STD
            )
            rows, columns = (side // PATCH for side in pixels.shape[:2])
            cut = pixels.reshape(rows, PATCH, columns, PATCH, 3).permute(0, 2, 4, 1, 3)
            patches.append(cut.reshape(rows * columns, -1))
            grids.append((rows, columns))
            new, learned = [vlm.PLACEHOLDER] * (rows * columns // 4), False
        else:
            new, learned = list(part.text.encode()), part.is_target
        ids += new
        learn += [learned] * len(new)
    ids.append(END)
    learn.append(learned)
    pictures = {}
    if patches:
        pictures = {"pixel_values": torch.cat(patches), "image_grid_hw": torch.tensor(grids)}
    inputs = torch.tensor([ids[:-1]])
    logits = model(input_ids=inputs, **pictures, use_cache=False).logits[0]
    mask = torch.tensor(learn[1:])
    labels = torch.tensor(ids[1:])
    return F.cross_entropy(logits[mask], labels[mask], reduction="sum"), int(mask.sum())


# The run's sums are taken over other parts in another order, which shows up to 3e-7 relative.
FP32_ORDER = 2e-6
NORMS = 1e-5
"""Of the later steps, whose weights Adam has moved: up to 2.4e-6."""
WEIGHTS, ENTRY = 2e-6, 1e-4
"""Of weights after the steps, which move each by 3e-3: root mean square of a tensor's differences,
and the largest. Adam divides by the gradient's own size, so that an entry whose gradient is small
shows rounding as a part of a step (2e-5 with torch 2.15). A weight decay of nothing instead of 0.1
shows 6e-5 in most entries."""


def test_losses_of_every_step(judged: Judged) -> None:
    assert judged.run.losses == pytest.approx(judged.losses, rel=FP32_ORDER)


def test_gradient_norms_of_every_step(judged: Judged) -> None:
    assert min(judged.norms) > CLIP, "clipping must act"
    assert judged.run.norms == pytest.approx(judged.norms, rel=NORMS)


def test_every_weight_after_the_steps(judged: Judged) -> None:
    assert judged.exported.keys() == judged.due.keys()
    wrong = {}
    for name, due in judged.due.items():
        difference = (judged.exported[name].float() - due.float()).abs()
        if name.endswith("attn.qkv.bias"):
            # A bias of all keys alike moves no attention weight: its gradient is rounding alone,
            # of which Adam makes steps of full size.
            difference = difference.view(3, -1)[[0, 2]]
        spread = difference.square().mean().sqrt()
        if spread > WEIGHTS or difference.max() > ENTRY:
            wrong[name] = (spread.item(), difference.max().item())
    assert wrong == {}


def test_every_weight_that_learns_has_moved(judged: Judged) -> None:
    still = {name for name, due in judged.due.items() if torch.equal(judged.begun[name], due)}
    apart = ("lambda1", "summary_idxs", "video_embedder.weight", "e_score_correction_bias")
    assert {name for name in still if not name.endswith(apart)} == set()


def test_the_screen_tells_what_was_read(judged: Judged) -> None:
    begins = "vision begins with the weights of"
    assert begins in judged.run.screen and "(encoder, projector)" in judged.run.screen
    assert "patch_generator.video_embedder.* (embeds frames of videos)" in judged.run.screen
