"""From figures to files, on two cores where that is safe: most of the report's time goes here."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.reporting import style
from harness.reporting.style import COLUMN, Figure
from harness.store.machine import cores

FEW = 4
"""Figures up to which a second process is not worth its start."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page needs it: svg text, and hover points as fractions of width and height."""

    name: str
    title: str
    caption: str
    scale: str
    wide: bool
    svg: str
    points: tuple[tuple[float, float, str], ...]


def draw(figure: Figure, folder: Path) -> Drawn:
    """Writes folder/<name>.pdf, .png and .csv."""
    style.save(figure, folder)
    wide = figure.canvas.get_figwidth() > COLUMN
    return Drawn(figure.name, figure.title, figure.caption, figure.scale, wide, style.svg(figure), tuple(figure.fractions()))


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Drawn]:
    """Draws every figure, in order. A forked child takes every second one, unless this process has threads or torch, or one core."""
    if len(figures) <= FEW or not _forkable():
        return [draw(figure, folder) for figure in figures]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(figures[1::2], folder, sender))
    child.start()
    sender.close()
    mine = [draw(figure, folder) for figure in figures[::2]]
    try:
        others = receiver.recv()
    except EOFError:  # the child died, of too little memory perhaps
        others = [draw(figure, folder) for figure in figures[1::2]]
    child.join()
    if isinstance(others, Exception):
        raise others
    found: list[Drawn] = [*mine, *others]
    found[::2], found[1::2] = mine, others
    return found


def _forkable() -> bool:
    """Whether a fork is safe and pays: Linux, two cores, no threads that could hold a lock, no torch."""
    return sys.platform == "linux" and cores() > 1 and threading.active_count() == 1 and "torch" not in sys.modules


def _send(figures: Sequence[Figure], folder: Path, sender: object) -> None:
    try:
        sender.send([draw(figure, folder) for figure in figures])
    except Exception as error:
        sender.send(error)
    finally:
        sender.close()
