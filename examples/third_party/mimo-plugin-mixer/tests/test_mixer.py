"""What is the mixer's alone."""

import pytest
import torch
from mimo_plugin_mixer.layers import Block
from mimo_plugin_mixer.options import Options


def test_each_patch_of_a_picture_reaches_every_other_and_no_other_picture() -> None:
    torch.manual_seed(0)
    block = Block(Options(hidden_size=8, image_size=8, patch_size=4))
    x = torch.randn(2, 4, 8, requires_grad=True)
    block(x)[0, 3].sum().backward()
    reached = x.grad.abs().sum(-1)
    assert (reached[0] > 0).all()
    assert (reached[1] == 0).all()


def test_a_patch_size_that_does_not_divide_is_told() -> None:
    with pytest.raises(ValueError, match="image_size=30: must be a multiple of patch_size=8"):
        Options(image_size=30)
