"""A run: the complete configuration of one training and its identity, the SHA-256 of its canonical JSON.

Everything that can change a result is a field of `Run`; the fields that cannot are listed in `harness.config.identity.NOT_IDENTITY`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from harness.config import parts
from harness.config.identity import FORMAT, identity_digest

WITHIN_CLASSES = "--set coupling.within_classes=true pairs rows of the same class only"
"""What to do about what `skewed_classes` says."""


_DIGEST = "_digest"
"""Where a run keeps its digest; pydantic's fields, dumps and comparisons pass over names that begin like this."""


class Run(parts.Part):
    """One training, fully resolved. The same config has the same identity and the same result."""

    scale: parts.ScaleName
    """Scale whose presets the run comes from."""
    data: parts.Data
    """Training data."""
    network: parts.Network
    """Network architecture."""
    noise: parts.Noise = parts.Noise()
    """Noise levels."""
    objective: parts.Objective = parts.ConsistencyTraining()
    """Training loss."""
    coupling: parts.Coupling = parts.Independent()
    """How data and noise are paired."""
    train: parts.Training
    """Optimisation."""
    ema: parts.Ema = parts.Ema()
    """Moving average of the weights."""
    evaluation: parts.Evaluation
    """Measurements."""
    protocol: parts.Protocol = parts.Protocol()
    """Choices where the paper and its released code differ."""
    init: parts.Init | None = None
    """Weights that training starts from; None for random ones."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] = 0
    """Training seed."""
    checkpoint_every: parts.Count = 1000
    """Steps between checkpoints; not part of the identity."""
    keep_steps: tuple[parts.Count, ...] = ()
    """Steps whose checkpoint is kept permanently, for runs that need an earlier model of this one; not part of the identity."""
    rehearsal: parts.Rehearsal = None
    """What is not real in a run of `harness rehearse` or of a smoke test, such as its data and length; null for every real run. No report,
    figure, verdict or publication of real runs takes one that has it."""

    @model_validator(mode="after")
    def _mu_zero_is_independent(self) -> Self:
        """mu = 0 is IC bit for bit, so it is the same run and is trained once."""
        no_gc = 1 if self.protocol.mu == "released" else 0
        if isinstance(self.coupling, parts.GeneratorAugmented) and self.coupling.mu == no_gc:
            object.__setattr__(self, "coupling", parts.Independent())  # the model is frozen
        return self

    @model_validator(mode="after")
    def _predictor_is_a_consistency_function(self) -> Self:
        predictor = self.coupling.predictor if isinstance(self.coupling, parts.GeneratorAugmented) else "frozen"
        if self.objective.kind == "denoiser" and predictor != "frozen":
            raise ValueError("a denoiser predicts no endpoints: its GC pairs need coupling.predictor = 'frozen'")
        return self

    @model_validator(mode="after")
    def _linear_network_has_a_fixed_grid(self) -> Self:
        objective = self.objective
        fixed = objective.kind == "ict" and objective.n0 == objective.n1
        if self.network.kind == "linear" and not fixed:
            raise ValueError("a linear network has one coefficient per noise level: it needs objective.kind = 'ict' with n0 = n1")
        if self.network.kind == "linear" and isinstance(self.coupling, parts.Variational):
            raise ValueError("coupling.kind = 'variational' needs an encoder, which a linear network cannot be")
        return self

    @model_validator(mode="after")
    def _assignments_fit_the_batch(self) -> Self:
        size = self.coupling.size if isinstance(self.coupling, parts.BatchOT) else None
        if size is not None and size % self.train.batch and self.train.batch % size:
            raise ValueError(f"coupling.size = {size} must divide train.batch = {self.train.batch}, or be a multiple of it")
        return self

    @model_validator(mode="after")
    def _one_law_of_the_average(self) -> Self:
        if self.ema.sigma_rel is not None and self.protocol.ema == "released":
            raise ValueError("protocol.ema = 'released' has a decay of its own: it needs ema.sigma_rel = null")
        return self

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        if getattr(self.coupling, "within_classes", False) and not self.data.labels:
            raise ValueError("coupling.within_classes = true needs data.labels = true")
        return self

    @model_validator(mode="after")
    def _times_lie_between(self) -> Self:
        """A denoiser draws no samples, so with times it is the same run."""
        if self.objective.kind == "denoiser" and self.evaluation.times:
            object.__setattr__(self, "evaluation", self.evaluation.model_copy(update={"times": (), "renoising": "stochastic"}))
        noise, times = self.noise, self.evaluation.times
        levels = (noise.sigma_max, *times, noise.sigma_min)
        if any(later >= earlier for earlier, later in pairwise(levels)):
            between = f"noise.sigma_max = {noise.sigma_max:g} and noise.sigma_min = {noise.sigma_min:g}"
            raise ValueError(f"evaluation.times = {list(times)} must descend, strictly between {between}")
        return self

    @model_validator(mode="after")
    def _unlabelled_samples(self) -> Self:
        """An unconditional model has no labels to draw, so it is the same run."""
        if not self.data.labels and self.evaluation.labels != "data":
            object.__setattr__(self, "evaluation", self.evaluation.model_copy(update={"labels": "data"}))
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs whose checkpoints this one starts from or predicts with."""
        predictor = self.coupling.frozen if isinstance(self.coupling, parts.GeneratorAugmented) else None
        start = self.init.ref if self.init and self.init.kind == "run" else None
        return tuple(run_id for run_id in (predictor, start) if run_id)

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of what can change the result; computed once, since a report asks for it thousands of times."""
        known = self.__dict__.get(_DIGEST)
        if known is None:
            known = self.__dict__[_DIGEST] = identity_digest(self.to_dict())
        return str(known)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's: a copy with other values, which are not validated. The digest is that of the copy."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop(_DIGEST, None)
        return copy

    @property
    def id(self) -> str:
        """Folder name: <slug>-<first 12 hex digits of the digest>."""
        return f"{self.slug}-{self.digest[:12]}"

    @property
    def slug(self) -> str:
        """The readable part of the id: <data>-<coupling>-s<seed>, with the objective unless it is iCT, after rehearsal- for a rehearsal."""
        kind = "" if self.objective.kind == "ict" else f"{self.objective.kind}-"
        mark = parts.REHEARSAL_PREFIX if self.rehearsal else ""
        return f"{mark}{self.data.name}-{kind}{parts.coupling_slug(self.coupling)}-s{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as stored in config.json."""
        return {"format": FORMAT, **self.model_dump(mode="json")}


def skewed_classes(run: Run) -> str:
    """Why the pairs of a conditional model do not have the law that it is sampled from; "" if they have, or the model is unconditional.

    A sample of a class starts from N(0, I). Where noise or endpoints are permuted over all classes, the noise that a class is trained with
    has another law. Couplings of users are not known here.
    """
    coupling = run.coupling
    permutes = isinstance(coupling, parts.GeneratorAugmented) and coupling.variant in parts.MIXES_ROWS
    mixes = permutes or isinstance(coupling, parts.BatchOT | parts.EntropicOT)
    if not run.data.labels or not mixes or getattr(coupling, "within_classes", False):
        return ""
    shuffled = isinstance(coupling, parts.GeneratorAugmented) and coupling.variant == "shuffled"
    what = "a row gets the endpoint of another class" if shuffled else "the noise that a class is trained with is no longer N(0, I)"
    return f"{parts.coupling_label(coupling)} with data.labels = true pairs rows over all classes: {what}, from which its samples start"


def varied(run: Run, **changes: Mapping[str, Any]) -> Run:
    """The run with other values, given as part={key: value} and validated."""
    values = run.model_dump()
    return Run.model_validate(values | {part: values[part] | dict(new) for part, new in changes.items()})
