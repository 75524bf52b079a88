"""A dataset of one-coloured rectangles of any shape, none to three in a sample."""

import mimo_core as mimo

mimo_contract = "1.0"


class Rectangles:
    """Sample ``i`` has ``i % 4`` pictures; the text says of each whether it is tall or wide."""

    def __init__(self, split: mimo.Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> mimo.Sample:
        import numpy as np

        generator = np.random.default_rng([index, self._split == "train"])
        pictures = [self._picture(generator) for _ in range(index % 4)]
        said = "".join("tw"[shape[1] > shape[0]] for shape in (p.shape for p in pictures))
        return mimo.Sample(
            key=f"rectangles/{self._split}/{index}",
            content=(*pictures, mimo.Text(text=f"{said}.", is_target=True)),
        )

    def _picture(self, generator: object) -> mimo.MediaItem:
        import numpy as np

        height, width = (int(side) for side in generator.integers(1, 80, 2))
        pixels = np.broadcast_to(generator.integers(0, 256, 3, np.uint8), (height, width, 3))
        return mimo.MediaItem(modality="image", shape=(height, width), load=lambda _: pixels)


@mimo.hookimpl
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Rectangles:
    return Rectangles(split)
