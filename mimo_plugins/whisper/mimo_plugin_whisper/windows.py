"""How a sound is cut into windows. Pure Python: every rank counts alike, from metadata."""

from __future__ import annotations

from mimo_core import MimoError
from mimo_plugin_whisper.options import POSITION, SAMPLE_RATE, Options


def resampled_length(samples: int, rate: int) -> int:
    """Samples of a sound at 16 kHz."""
    return -(-samples * SAMPLE_RATE // rate)


def window_positions(shape: tuple[int, ...], options: Options) -> list[int]:
    """Encoder positions of each window of a sound, in order.

    All but the last are whole windows. With short windows the last has as many positions as what
    is left needs, rounded up to whole rows of ``stack`` positions.

    Args:
        shape: ``(samples, samples a second)`` from the sound's metadata.

    Raises:
        MimoError: the shape is something else.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise MimoError(
            f"metadata of a sound says shape {tuple(shape)}: whisper needs (samples, samples a "
            "second), each 1 or more; mend it where the dataset makes its Media",
            code="sample.no-positions",
            shape=tuple(shape),
        )
    whole, left = divmod(resampled_length(*shape), options.window_positions * POSITION)
    windows = [options.window_positions] * whole
    if left:
        rows = -(-left // (POSITION * options.stack))
        padded = options.windows == "padded"
        windows.append(options.window_positions if padded else rows * options.stack)
    return windows


def rows(shape: tuple[int, ...], options: Options) -> int:
    """Rows that the tower puts out for a sound."""
    return sum(window_positions(shape, options)) // options.stack
