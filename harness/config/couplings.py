"""Couplings of data and noise as a run's configuration names them, and their short names in folders and tables.

Fields, defaults and ranges are part of the identity of every stored run.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.config.part import Count, Part, Size


class Independent(Part):
    """IC: q_I = p* x p_z."""

    kind: Literal["independent"] = "independent"
    """Data and noise are drawn independently."""


class BatchOT(Part):
    """Optimal assignment of the noise to the data of one batch, squared cost."""

    kind: Literal["batch-ot"] = "batch-ot"
    """Noise is assigned to the data of a batch by optimal transport."""
    scope: Literal["process", "global"] = "process"
    """Rows that are assigned together: those of one process, or those of all processes."""
    size: Size | None = None
    """Rows that are assigned together with scope = "global", a divisor or a multiple of the training batch; None for the training batch."""
    within_classes: bool = False
    """Whether noise is assigned to the data of each class separately, so that it stays N(0, I) given the class; needs data.labels."""

    @model_validator(mode="after")
    def _size_counts_all_rows(self) -> Self:
        if self.size is not None and self.scope != "global":
            raise ValueError("size counts the rows of all processes, so it needs scope = 'global'")
        return self


class EntropicOT(Part):
    """Noise drawn from the plan of entropic optimal transport of one batch (arXiv 2302.00482), squared cost, solved by Sinkhorn."""

    kind: Literal["entropic-ot"] = "entropic-ot"
    """Each data row of a batch draws its noise from an entropic optimal-transport plan."""
    regularisation: Annotated[float, Field(ge=1e-4, le=1e4, strict=True)] = 0.05
    """Weight of the entropy, in units of the mean cost of the batch: 0 would be the optimal assignment, large values are IC."""
    within_classes: bool = False
    """Whether each class has a plan of its own, so that no noise goes to the data of another class; needs data.labels."""


class Variational(Part):
    """A learned coupling: an encoder, trained along, gives each data row the law of its noise (arXiv 2502.18197)."""

    kind: Literal["variational"] = "variational"
    """Each data row draws its noise from a normal law that an encoder of the data learns."""
    kl_weight: Annotated[float, Field(ge=0, le=1e6, strict=True)] = 10.0
    """Weight in the loss of the divergence between that law and N(0, I), from which samples start; large values are IC."""


MIXES_ROWS = ("shuffled", "batch-ot")
"""Variants of GC whose endpoint and noise come from different rows of the batch."""


class GeneratorAugmented(Part):
    """GC (13), (14), (21): a row is GC with probability mu."""

    kind: Literal["gc"] = "gc"
    """The data of a pair is replaced by an endpoint that a network predicts from the noisy pair."""
    mu: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.5
    """Probability that a row of the batch is GC; the other rows are IC."""
    predictor: Literal["ema", "online", "frozen"] = "ema"
    """Network that predicts the endpoints: the EMA weights, the weights in training, or another, finished run."""
    frozen: str | None = None
    """Id of the run that predicts when predictor = "frozen"."""
    frozen_step: Count | None = None
    """Stored step of that run whose weights predict; None for its last step."""
    variant: Literal["gc", "fresh-noise", "shuffled", "batch-ot", "reflow"] = "gc"
    """How the predicted endpoint is paired: as in the paper (gc), or one of the mechanism ablations."""
    within_classes: bool = False
    """Whether the variants shuffled and batch-ot pair within each class; needs data.labels. The others mix no rows and ignore it."""

    @model_validator(mode="after")
    def _only_variants_that_mix_rows(self) -> Self:
        """The same pairs are the same run."""
        if self.within_classes and self.variant not in MIXES_ROWS:
            object.__setattr__(self, "within_classes", False)  # the model is frozen
        return self

    @model_validator(mode="after")
    def _frozen_is_named(self) -> Self:
        if (self.predictor == "frozen") != (self.frozen is not None):
            raise ValueError("predictor = 'frozen' and the id of a frozen run go together")
        return self


class Custom(Part):
    """A user's own coupling: one function in one file."""

    kind: Literal["custom"] = "custom"
    """A coupling function from a Python file."""
    source: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    """File and function, as FILE.py:FUNCTION."""
    sha256: str
    """SHA-256 of the file, so that an edited coupling is another run."""
    options: dict[str, float | int | str | bool] = {}  # noqa: RUF012 - pydantic copies it
    """Keyword arguments of the function."""


Coupling = Annotated[Independent | BatchOT | EntropicOT | GeneratorAugmented | Variational | Custom, Field(discriminator="kind")]


def coupling_slug(coupling: Coupling) -> str:
    """Short name of a coupling in folder names and tables' keys: ic, ot, ot-512, gc-0.5, gc-0.3-frozen, my-function."""
    return "-".join(_name_and_details(coupling))


def coupling_label(coupling: Coupling) -> str:
    """The coupling as the paper writes it: IC, OT, GC (mu=0.5)."""
    name, *details = _name_and_details(coupling)
    if isinstance(coupling, GeneratorAugmented):
        details[0] = f"mu={details[0]}"
    if isinstance(coupling, Variational):
        details[0] = f"KL weight {details[0]}"
    label = name if isinstance(coupling, Custom) else "entropic OT" if isinstance(coupling, EntropicOT) else name.upper()
    return f"{label} ({', '.join(details)})" if details else label


def _name_and_details(coupling: Coupling) -> list[str]:
    match coupling:
        case Independent():
            return ["ic"]
        case BatchOT():
            return ["ot", *([] if coupling.scope == "process" else [str(coupling.size or "global")]), *_within(coupling)]
        case EntropicOT():
            return ["sinkhorn", f"{coupling.regularisation:g}", *_within(coupling)]
        case GeneratorAugmented():
            details = [part for part in (coupling.predictor, coupling.variant) if part not in ("ema", "gc")]
            return ["gc", f"{coupling.mu:g}", *details, *_within(coupling)]
        case Variational():
            return ["vct", f"{coupling.kl_weight:g}"]
        case Custom():
            return [re.sub(r"[^a-z0-9]+", "-", coupling.source.rsplit(":", 1)[1].lower()).strip("-")]


def _within(coupling: BatchOT | EntropicOT | GeneratorAugmented) -> list[str]:
    return ["within-classes"] if coupling.within_classes else []
