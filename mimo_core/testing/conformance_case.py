"""What is tested: a plugin, what it is for, and a tiny configuration of it. No torch, no pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mimo_core.contract import MediaItem, Sample, Text
from mimo_core.errors import MimoError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["encoder", "language", "dataset", "wrapper"]


_SHAPES: Mapping[str, Sequence[tuple[int, ...]]] = {
    "image": ((32, 32), (48, 32), (24, 40)),
    "audio": ((3200, 16_000), (4000, 8000), (900, 16_000)),
}


class Subject:
    """A plugin under test, as attributes of a class.

    Where a check needs ranks, the class is imported there too, by its file: nothing of it has to be
    pickled, and each method may be overridden.

    Of a wrapper, ``tolerance``, ``patience`` and ``looked_at`` are its own, as ``options`` are;
    what is built and what it is given (``megatron``, ``language_width``, ``sequence_length``,
    ``shapes`` and the methods) is told by the subject that it ``wraps``.
    """

    plugin: ClassVar[Any]
    """Name of its entry point. A plugin that is not installed: the object that holds its hooks."""
    kind: ClassVar[Kind]
    """What a recipe uses it for."""
    options: ClassVar[Mapping[str, Any]] = {}
    """As in a recipe; the smallest that use every layer."""
    wraps: ClassVar[type[Subject] | None] = None
    """Wrappers: the module that is wrapped."""

    megatron: ClassVar[Mapping[str, Any]] = {}
    """As ``modules.NAME.megatron`` in a recipe."""
    language_width: ClassVar[int] = 32
    """Encoders: width of the language model beside it."""
    sequence_length: ClassVar[int] = 64
    """Positions of a sample."""
    shapes: ClassVar[Sequence[tuple[int, ...]]] = ()
    """Encoders: shapes of the media it is given, as ``Media.shape`` tells them; by default three
    pictures or sounds of different sizes."""
    looked_at: ClassVar[int] = 50
    """Datasets: samples of each split that are looked at, spread over it."""
    tolerance: ClassVar[float] = 1e-4
    """Largest difference in fp32 between tp 2 and tp 1, and between packed and padded samples, as
    a share of the largest value: sums in another order."""
    flops_tolerance: ClassVar[float] = 0.0
    """Largest difference between the FLOPs of the hook ``flops`` and those of the matrix products
    that a CPU makes, as a share: where the model needs others than these (a scan)."""
    patience: ClassVar[float] = 60.0
    """Seconds after which a check on ranks is a hang."""

    def array(self, kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
        """A medium's data: random. Override where it is neither image nor audio.

        Args:
            kind: What ``describe_module().modality`` says.
            shape: One of ``shapes``.
            generator: Draws it.

        Raises:
            MimoError: the kit does not know what this kind looks like.
        """
        import numpy as np

        if kind == "image":
            return generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        if kind == "audio":
            return generator.uniform(-1, 1, shape[0]).astype(np.float32)
        raise MimoError(
            f"the kit does not know how media of kind {kind!r} look; override array() in "
            f"{type(self).__name__} so that it makes one of a shape",
            code="testing.unknown-medium",
            kind=kind,
            subject=type(self).__name__,
        )

    def media(self, kind: str) -> list[MediaItem]:
        """A medium of each shape, with data of its own."""
        shapes = self.shapes or _SHAPES.get(kind, ((1,),))
        return [self._medium(kind, shape, seed) for seed, shape in enumerate(shapes)]

    def samples(self, kind: str | None) -> list[Sample]:
        """What modules are given: one sample with all media (if any kind is read), one with the
        first of them, one of text alone."""
        media = [] if kind is None else self.media(kind)
        word = Text(text="ab")
        said = Text(text="cdefg", is_target=True)
        return [
            Sample(key="conformance/several", content=(word, *media, said)),
            Sample(key="conformance/one", content=(*media[:1], said)),
            Sample(key="conformance/text", content=(word, said)),
        ]

    def _medium(self, kind: str, shape: tuple[int, ...], seed: int) -> MediaItem:
        def load(_generator: np.random.Generator | None) -> Any:
            import numpy as np

            return self.array(kind, shape, np.random.default_rng(seed))

        return MediaItem(modality=kind, shape=shape, load=load)
