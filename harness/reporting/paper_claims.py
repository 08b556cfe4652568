"""The paper's claims as paper_values.toml states them, checked when they are read.

An entry names its judge, a function of harness.reporting.claims; each judge has its own further keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from harness.config.validation import validated
from harness.errors import HarnessError, unknown
from harness.reporting import paper_values

Margin = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=1)]
Names = tuple[str, ...]


class Claim(BaseModel):
    """What every claim states; also the model of those whose judge needs nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    text: str
    figure: str
    """The paper's figure or table that the claim rests on."""
    judge: str
    experiment: str
    """The experiment whose runs or measurements the claim is judged on."""
    margin: Margin = 0.05
    """Differences below this share of the value compared with count as no difference."""
    paper_data: Names = ()
    """The data sets that the claim is about at the paper scale; (): those of Table 1."""
    left_out: Names = ()
    """Data sets that the claim leaves out."""


class Better(Claim):
    left: str
    right: Names


class Band(Claim):
    low: Strength
    high: Strength
    least: tuple[Strength, ...]


class Rebound(Claim):
    model: str
    least: Names
    others: Names


class BestNear(Claim):
    mu: Strength
    far: Strength
    steps: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    """The numbers of sampling steps with which it is judged, where the models are measured with them."""


class WithAndWithout(Claim):
    models: Names


KINDS: Mapping[str, type[Claim]] = {
    "better": Better,
    "band": Band,
    "rebound": Rebound,
    "frozen": Claim,
    "ect": BestNear,
    "dropout": WithAndWithout,
    "proxy": Claim,
    "transport": Claim,
    "theorem1": Claim,
    "theorem2": Claim,
    "lemma1": Claim,
}
"""The keys of a claim by its judge."""


def read(entries: Sequence[Mapping[str, Any]], where: Path) -> tuple[Claim, ...]:
    """The claims of these entries.

    Raises HarnessError for no entries, an unknown judge or key, a missing key, a value that is not allowed, and an id that occurs twice.
    """
    if not entries:
        raise HarnessError("no claims", where=where, expected="[[claims]] entries")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        place = f"{where}, claim {entry.get('id', f'number {number}')}"
        judge = str(entry.get("judge", ""))
        if judge and judge not in KINDS:
            raise unknown("judge", judge, KINDS, where=place)
        claim = validated(KINDS.get(judge, Claim), entry, place)
        if claim.id in claims:
            raise HarnessError("two claims of the same id", where=where, found=claim.id, expected="ids that differ")
        claims[claim.id] = claim
    return tuple(claims.values())


@cache
def claims() -> tuple[Claim, ...]:
    """The claims of paper_values.toml, in its order. Raises HarnessError as `read` does."""
    return read(paper_values.paper().get("claims", ()), paper_values.PATH)
