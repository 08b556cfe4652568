"""The runs that a command line selects, and the command that selects them again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.experiments import MOST_SEEDS, expand, load
from harness.config.identity import short_hash
from harness.config.run import Run
from harness.config.speed import FAST
from harness.errors import HarnessError, printable

DEFAULT_SCALE = "digits"
LARGEST_SEED = 2**31 - 1
_LONGEST_SUFFIX = 48


@dataclass(frozen=True)
class Selection:
    """An experiment and every option that changes its runs or where they are stored; None and () are the defaults."""

    experiment: str
    scale: str = DEFAULT_SCALE
    seeds: tuple[int, ...] | None = None
    overrides: tuple[str, ...] = ()
    """KEY=VALUE, as --set takes them."""
    couplings: tuple[str, ...] = ()
    """FILE.py:FUNCTION, as --coupling takes them."""
    results: Path | None = None
    """The results folder; None for the default."""
    data: tuple[str, ...] = ()
    """Data sets in the place of those of the scale, as --data takes them."""

    def runs(self) -> list[Run]:
        """The selected runs, as `harness.config.experiments.expand` returns them. Raises HarnessError for unknown names."""
        return expand(self.experiment, self.scale, self.seeds, self.overrides, self.couplings, self.data)

    def command(self, command: str, *more: str) -> str:
        """`command` ("harness sweep") with this selection and `more` options, quoted for a shell; options at their default are left out."""
        words = [self.experiment]
        words += ["--scale", self.scale] if self.scale != DEFAULT_SCALE else []
        words += ["--data", ",".join(self.data)] if self.data else []
        words += ["--seeds", format_seeds(self.seeds)] if self.seeds is not None else []
        words += [word for override in self.overrides for word in (("--fast",) if override == FAST else ("--set", override))]
        words += [word for coupling in self.couplings for word in ("--coupling", coupling)]
        words += ["--results", str(self.results)] if self.results is not None else []
        return f"{command} {shlex.join([*words, *more])}"

    def has_default_seeds(self) -> bool:
        """Whether the seeds are those that the experiment has by default. Raises HarnessError for an unknown experiment or scale."""
        return self.seeds is None or set(self.seeds) == set(load(self.experiment).default_seeds(self.scale))

    def without_default_seeds(self) -> Selection:
        """This selection without seeds if they are the default ones. Raises HarnessError as `has_default_seeds`."""
        return replace(self, seeds=None) if self.has_default_seeds() else self

    def changes(self) -> tuple[str, ...]:
        """What is not at its default, for a caption: "train.steps=100", "coupling my.py:swapped", "seeds 0, 4"; without the scale."""
        seeds = sorted(set(self.seeds or ()))
        return (
            *([f"data set{'s' * (len(self.data) > 1)} {', '.join(self.data)}"] if self.data else []),
            *self.overrides,
            *(f"coupling {Path(coupling).name}" for coupling in self.couplings),
            *([f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if seeds else []),
        )

    def suffix(self) -> str:
        """`changes` for a file name, with a leading hyphen: "-textures-train.steps=100-seeds-0-4", or "" for the defaults.

        A text that is too long is cut. A hash follows where the text alone is ambiguous: if it is cut, lacks a folder or a character, or
        names several data sets.
        """
        parts = (*self.data, *replace(self, data=()).changes())
        readable = re.sub(r"[^A-Za-z0-9_.=-]+", "-", "".join(f"-{part}" for part in parts))
        plain = not self.couplings and len(self.data) <= 1 and not re.search(r"[^A-Za-z0-9_.=-]", "".join(self.overrides))
        if plain and len(readable) <= _LONGEST_SUFFIX:
            return readable
        digest = short_hash([self.overrides, self.couplings, sorted(set(self.seeds or ())), *([self.data] if self.data else [])], 8)
        return f"{readable[:_LONGEST_SUFFIX].rstrip('-.=')}-{digest}"


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a count ("3": 0, 1, 2) or a list with commas ("0,4" or "7,"). Raises HarnessError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[0-9]{1,1000}", part) for part in parts):
        expected = "3, or 0,1,2, or 7, for seed 7 alone"
        raise HarnessError("seeds are a count or a list", where="--seeds", found=printable(text, 60), expected=expected)
    numbers = [int(part) for part in parts]
    if len(numbers) > MOST_SEEDS or ("," not in text and numbers[0] > MOST_SEEDS):
        count = printable(len(numbers) if "," in text else numbers[0], 60)
        raise HarnessError("too many seeds", where="--seeds", found=count, expected=f"at most {MOST_SEEDS}", nearest=MOST_SEEDS)
    if "," in text:
        if max(numbers) > LARGEST_SEED:
            found, expected = printable(max(numbers), 60), f"0 to {LARGEST_SEED}"
            raise HarnessError("a seed out of range", where="--seeds", found=found, expected=expected, nearest=LARGEST_SEED)
        return tuple(dict.fromkeys(numbers))
    if not numbers[0]:
        raise HarnessError("no seeds", where="--seeds", found=text, expected="a count of 1 or more", nearest=1)
    return tuple(range(numbers[0]))


def parse_data(text: str) -> tuple[str, ...]:
    """Names of data sets, separated by commas, each once. Raises HarnessError for none."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise HarnessError("no data set is given", where="--data", found=printable(text, 60) or "an empty text", expected="NAME[,NAME]")
    return names


def format_seeds(seeds: Sequence[int]) -> str:
    """The text that `parse_seeds` reads as these seeds."""
    if tuple(seeds) == tuple(range(len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
