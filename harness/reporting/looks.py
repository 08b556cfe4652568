"""Colours (Okabe-Ito, safe for colour-blind readers), markers and lines of couplings, for figures and the page. No matplotlib."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

Line = Literal["-"] | tuple[float, tuple[float, ...]]
"""A line of matplotlib: solid, or an offset with the lengths of dashes and gaps."""
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY, BROWN, DARK_GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777", "#8C6D31", "#555555",
)  # fmt: skip
"""The page's style sheet has a lighter variant of the darker ones for dark mode; see templates/page.css."""
LOOKS = {
    "ic": (BLACK, "o"),
    "ot": (ORANGE, "s"),
    "sinkhorn": (BROWN, "s"),
    "vct": (GREEN, "P"),
    "gc-0.1": (SKY, "v"),
    "gc-0.3": (GREEN, "D"),
    "gc-0.5": (VERMILLION, "^"),
    "gc-0.7": (PURPLE, "P"),
    "gc-1": (BLUE, "X"),
    "gc": (VERMILLION, "^"),
    "pf-ode": (GREY, "."),
    "frozen": (BLUE, "D"),
    "online": (SKY, "<"),
    "fresh-noise": (PURPLE, "p"),
    "shuffled": (BLUE, ">"),
    "batch-ot": (BROWN, "h"),
    "reflow": (GREEN, "d"),
    "squared": (BLACK, "o"),
    "norm": (VERMILLION, "^"),
    "pseudo-Huber": (BLUE, "s"),
}
"""Colour and marker of a coupling, or of a distance of Theorem 1; a GC variant with other pairs or another predictor has its own."""
DASHED: Line = (0, (4, 1.5))
LINES: tuple[Line, ...] = ("-", DASHED, (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
OTHER_MARKERS = ("*", "s", "<", "P", ">", "h")
"""Markers of the second and further settings of one coupling."""
LARGER = 4.4
"""Size in points of markers whose shape is lost at the usual size."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a curve. hollow: the marker is an outline, which stands for one training seed."""

    color: str
    marker: str
    line: Line = "-"
    hollow: bool = False

    def of(self, n: int) -> Look:
        """This look for a mean over n training seeds: hollow for one."""
        return replace(self, hollow=n == 1)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line with markers."""
        face = "white" if self.hollow else self.color
        size = {"markersize": LARGER} if self.marker and self.marker in "PX*p" else {}
        return {"color": self.color, "linestyle": self.line, "marker": self.marker, "markerfacecolor": face, "markeredgewidth": 0.7, **size}


def looks(slugs: Iterable[str]) -> dict[str, Look]:
    """A look for each slug of a figure. A coupling has the same colour in every figure, and the same marker where its settings are the
    usual ones; other settings change line and marker.
    """
    by_slug: dict[str, Look] = {}
    used: Counter[tuple[str, str]] = Counter()
    for name in slugs:
        base = _base(name)
        pair = LOOKS.get(base) or ((GREY, "^") if base.startswith("gc-") else (BROWN, "*"))
        color, marker = pair
        others = [other for other in OTHER_MARKERS if other != marker]
        by_slug[name] = Look(color, others[(used[pair] - 1) % len(others)] if used[pair] else marker, LINES[used[pair] % len(LINES)])
        used[pair] += 1
    return by_slug


def look(slug: str) -> Look:
    """The look of a coupling that is alone in its figure."""
    return looks([slug])[slug]


def _base(name: str) -> str:
    """gc-0.5 lr=... -> gc-0.5; gc-0.5-online -> online; gc-1-frozen -> frozen; ect-ic -> ic; ot-2048 -> ot; gc-ideal -> gc; sinkhorn-0.1
    -> sinkhorn."""
    name = re.sub(r"^(ect|denoiser)-", "", name.partition(" ")[0])
    if (match := re.match(r"gc-\d[\d.]*-([a-z-]+)$", name)) and match[1] in LOOKS:
        return match[1]
    if match := re.match(r"gc-\d[\d.]*", name):
        return match[0]
    return next((base for base in ("gc", "ot", "sinkhorn", "vct") if re.match(rf"{base}(-|$)", name)), name)
