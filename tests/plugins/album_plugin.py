"""Text with no, one or several pictures of different sizes; installed by the tests that use it."""

import numpy as np

import mimo_core as mimo

mimo_contract = "1.0"

SIZES = ((8, 8), (16, 8), (8, 24), (16, 16), (24, 16))
"""Heights and widths in pixels: whole units of the tower that reads them, so that no picture is
resized."""
WORDS = ("red", "blue sky", "a", "nine lives", "xyz")


def picture(number: int) -> np.ndarray:
    """Uint8 ``[height, width, 3]``."""
    shape = SIZES[number % len(SIZES)]
    return np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)


class Album:
    """Sample ``i`` has ``i % 4`` pictures, before and between its texts."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> mimo.Sample:
        pictures = [
            mimo.MediaItem(
                modality="image",
                shape=SIZES[number % len(SIZES)],
                load=lambda _, number=number: picture(number),
            )
            for number in range(index, index + index % 4)
        ]
        question = mimo.Text(text=f"{index}?")
        answer = mimo.Text(text=WORDS[index % len(WORDS)], is_target=True)
        return mimo.Sample(
            key=f"album/{index}", content=(*pictures[:1], question, *pictures[1:], answer)
        )


@mimo.hookimpl
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Album:
    return Album()
