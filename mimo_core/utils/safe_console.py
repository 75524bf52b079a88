"""A rich console that shows text from elsewhere as it is, and lets none of it act on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from mimo_core.utils.terminal_text import printable


class SafeConsole(Console):
    """Escapes control characters in everything it shows. Strings are no markup: ``[bold]`` and
    ``:smile:`` are shown as they are. Styles come from ``Text`` and from ``style=``.
    """

    def __init__(self, *, file: IO[str] | None = None, width: int | None = None) -> None:
        """
        Args:
            file: Where to write; stdout by default.
            width: Columns; by default those of the terminal.
        """
        super().__init__(file=file, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a string before its width is measured."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Escape what else is shown; rich's own control codes pass."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
