"""The terminal as all commands write to it: text from records, configs, logs and file names shows its control characters, obeys none."""

from __future__ import annotations

from collections.abc import Iterable

from rich import console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.errors import visible


class Console(console.Console):
    """A rich console that neutralises every text at the last moment, whatever it is part of; rich's own control codes stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich, with control characters of the text as escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
