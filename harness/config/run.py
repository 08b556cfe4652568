"""What a run is: typed, frozen, validated, hashed. The identity of a run is the SHA-256 of its canonical JSON.

Everything that can change a result is a field of `Run`; what cannot (workers, paths, partitions, how often to save) is not, or is
listed in NOT_IDENTITY. `harness.config.overrides` turns plain values and KEY=VALUE settings into runs, with clear messages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT = 1
NOT_IDENTITY = ("checkpoint_every", "keep_steps")
LATER = {("coupling", "size"): None}
"""Keys that came after the first runs, left out of the identity at the value those had."""
ScaleName = Literal["toy", "digits", "fashion", "paper"]
SCALE_NAMES: tuple[ScaleName, ...] = get_args(ScaleName)
"""The scales, the smallest first."""
Choice = Literal["paper", "released"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A frozen piece of a run; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Data(Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    """A name that `harness.data.datasets` knows."""
    limit: Count | None = None
    """Only this many training rows (data scaling); None for all."""
    labels: bool = False
    """Condition the network on the class."""


class Network(Part):
    kind: Literal["ddpmpp", "ncsnpp", "mlp"]
    base_channels: Annotated[int, Field(ge=4)] = 128
    channel_mult: tuple[Count, ...] = (1, 2, 2)
    num_blocks: tuple[Count, ...] = (3, 3, 3)
    """Residual blocks of each level."""
    attention: tuple[Count, ...] = ()
    """Resolutions with self-attention; the bottleneck of the decoder always has it."""
    dropout: tuple[Rate, ...] = (0.0, 0.0, 0.0)
    """Dropout of each level; for the MLP, one value."""
    augment_dim: Annotated[int, Field(ge=0)] = 0
    width: Count = 256
    """Hidden width of the MLP."""
    depth: Count = 3
    """Hidden layers of the MLP."""

    @model_validator(mode="after")
    def _levels_agree(self):
        if self.kind == "mlp":
            if len(self.dropout) != 1:
                raise ValueError("an MLP takes one dropout rate")
        elif not len(self.channel_mult) == len(self.num_blocks) == len(self.dropout):
            raise ValueError("channel_mult, num_blocks and dropout need one value a level")
        return self


class Noise(Part):
    """The EDM noise range and scale, sigma_t = t."""

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5
    rho: Positive = 7.0

    @model_validator(mode="after")
    def _ordered(self):
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must lie below sigma_max")
        return self


class ConsistencyTraining(Part):
    """iCT: N(k) grid, pseudo-Huber distance, weights 1/(sigma_{i+1} - sigma_i), log-normal time law."""

    kind: Literal["ict"] = "ict"
    n0: Annotated[int, Field(ge=1)] = 10
    """Intervals at the start; the grid has one point more."""
    n1: Annotated[int, Field(ge=1)] = 1280
    """Intervals at the end."""
    p_mean: float = -1.1
    p_std: Positive = 2.0
    distance: Literal["pseudo-huber", "squared", "norm"] = "pseudo-huber"
    huber: Annotated[float, Field(ge=0)] = 0.00054
    """c = huber * sqrt(d) of the pseudo-Huber distance."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.n1 < self.n0:
            raise ValueError("n1 must be at least n0")
        return self


class EasyConsistencyTuning(Part):
    """ECT (arXiv 2406.14548): continuous times, r/t -> 1 in stages, distance |.|_2 / (t - r)."""

    kind: Literal["ect"] = "ect"
    p_mean: float = -1.1
    p_std: Positive = 2.0
    q: Annotated[float, Field(gt=1)] = 2.0
    k: Positive = 8.0
    b: Positive = 1.0
    double: Annotated[int, Field(ge=0)] = 10_000
    """Steps of a stage; 0 stays in the first."""


class Denoising(Part):
    """EDM's denoiser loss (arXiv 2206.00364), for the proxy Rtil_t of a coupling and for pre-training."""

    kind: Literal["denoiser"] = "denoiser"
    p_mean: float = -1.2
    p_std: Positive = 1.2


Objective = Annotated[ConsistencyTraining | EasyConsistencyTuning | Denoising, Field(discriminator="kind")]


class Independent(Part):
    """IC: q_I = p* x p_z."""

    kind: Literal["independent"] = "independent"


class BatchOT(Part):
    """Optimal assignment of the noise to the data of one batch, squared cost."""

    kind: Literal["batch-ot"] = "batch-ot"
    scope: Literal["process", "global"] = "process"
    """Over the rows of one process, or over the whole batch of all."""
    size: Count | None = None
    """Rows assigned together, over all processes, so with scope = "global": a part of the training batch, or the rows of several
    consecutive steps. None for the batch itself."""

    @model_validator(mode="after")
    def _size_counts_all_rows(self):
        if self.size is not None and self.scope != "global":
            raise ValueError("size counts the rows of all processes, so it needs scope = 'global'")
        return self


class GeneratorAugmented(Part):
    """GC (13), (14), (21): a row is GC with probability mu."""

    kind: Literal["gc"] = "gc"
    mu: Annotated[float, Field(ge=0, le=1)] = 0.5
    predictor: Literal["ema", "online", "frozen"] = "ema"
    frozen: str | None = None
    """The id of the run that predicts, when predictor = "frozen"."""
    frozen_step: Count | None = None
    """A stored step of that run; None for its last."""
    variant: Literal["gc", "fresh-noise", "shuffled", "batch-ot", "reflow"] = "gc"
    """Mechanism ablations: keep the predictor, change how its endpoint is paired."""

    @model_validator(mode="after")
    def _frozen_is_named(self):
        if (self.predictor == "frozen") != (self.frozen is not None):
            raise ValueError("predictor = 'frozen' and the id of a frozen run go together")
        return self


class Custom(Part):
    """A user's own coupling: one function in one file."""

    kind: Literal["custom"] = "custom"
    source: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    """FILE.py:FUNCTION."""
    sha256: str
    """Of the file, so that an edited coupling is another run."""
    options: dict[str, float | int | str | bool] = {}


Coupling = Annotated[Independent | BatchOT | GeneratorAugmented | Custom, Field(discriminator="kind")]


class Training(Part):
    steps: Count
    batch: Count
    """Rows of one step over all processes."""
    lr: Positive
    optimizer: Literal["lion", "radam", "adam"] = "lion"
    betas: tuple[Rate, Rate] = (0.9, 0.99)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one process, which fix the order of sums; 0 leaves torch's choice."""


class Ema(Part):
    rate: Rate = 0.9999
    copy_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of plain copying at the start."""


class Evaluation(Part):
    every: Count
    """Steps between evaluations; the last step is always evaluated."""
    samples: Count
    """Generated samples of one evaluation."""
    resamplings: Count = 5
    """Evaluations of the last model with fresh noise; the curve uses one."""
    grid: Annotated[int, Field(ge=0)] = 64
    """Images of the sample grid."""


class Protocol(Part):
    """The protocol ledger: where paper and released code differ, which of the two is meant."""

    mu: Choice = "paper"
    """paper: mu = P(GC). released: the released code's key, which is P(IC)."""
    ema: Choice = "paper"
    """paper: constant rate. released: ema-pytorch 0.2.3, every 5 steps, decay min(rate, 1 - (1+k)^(-2/3))."""
    predictor_rows: Choice = "paper"
    """paper: only the GC rows go through the predictor. released: the whole batch, then masked (same numbers, slower)."""
    ot_cost: Choice = "paper"
    """paper: squared distance. released: distance truncated to integers."""
    sample_range: Choice = "paper"
    """paper: clip to [-1, 1]. released: min-max of every batch."""
    quantisation: Choice = "paper"
    """paper: round to the nearest of 256 levels. released: truncate."""
    last_batch: Choice = "paper"
    """paper: every batch is full. released: the last, partial batch of an epoch is kept."""


class Init(Part):
    """Where the first weights come from: another run's EMA, or public EDM weights."""

    kind: Literal["run", "edm"]
    ref: str
    """A run id, or the file name below the weights folder."""


class Run(Part):
    """One training, fully resolved. Same config, same identity, same result."""

    scale: ScaleName
    data: Data
    network: Network
    noise: Noise = Noise()
    objective: Objective = ConsistencyTraining()
    coupling: Coupling = Independent()
    train: Training
    ema: Ema = Ema()
    evaluation: Evaluation
    protocol: Protocol = Protocol()
    init: Init | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints; cannot change the result, so no part of the identity."""
    keep_steps: tuple[Count, ...] = ()
    """Steps whose checkpoint is kept for good, for runs that need a younger model of this one; no part of the identity either."""

    @model_validator(mode="before")
    @classmethod
    def _mu_zero_is_independent(cls, values):
        """mu = 0 is IC bit for bit, so it is the same run and is trained once."""
        if isinstance(values, dict):
            coupling = values.get("coupling")
            found = coupling.model_dump() if isinstance(coupling, Part) else coupling
            none = 1 if _released_mu(values.get("protocol")) else 0
            if isinstance(found, dict) and found.get("kind") == "gc" and found.get("mu", 0.5) == none:
                values = {**values, "coupling": {"kind": "independent"}}
        return values

    @model_validator(mode="after")
    def _predictor_is_a_consistency_function(self):
        if self.objective.kind == "denoiser" and isinstance(self.coupling, GeneratorAugmented) and self.coupling.predictor != "frozen":
            raise ValueError("a denoiser predicts no endpoints: its GC pairs need coupling.predictor = 'frozen'")
        return self

    @model_validator(mode="after")
    def _assignments_fit_the_batch(self):
        size = self.coupling.size if isinstance(self.coupling, BatchOT) else None
        if size is not None and size % self.train.batch and self.train.batch % size:
            raise ValueError(f"coupling.size = {size} must divide train.batch = {self.train.batch}, or be a multiple of it")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs whose checkpoints this one starts from or predicts with."""
        found = []
        if isinstance(self.coupling, GeneratorAugmented) and self.coupling.frozen:
            found.append(self.coupling.frozen)
        if self.init and self.init.kind == "run":
            found.append(self.init.ref)
        return tuple(found)

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of what can change the result."""
        return identity_digest(self.to_dict())

    @property
    def id(self) -> str:
        """Folder name: <slug>-<first 12 hex digits of the digest>."""
        return f"{self.slug}-{self.digest[:12]}"

    @property
    def slug(self) -> str:
        kind = "" if self.objective.kind == "ict" else f"{self.objective.kind}-"
        return f"{self.data.name}-{kind}{coupling_slug(self.coupling)}-s{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.model_dump(mode="json")}


def _released_mu(protocol: object) -> bool:
    return (protocol.get("mu") if isinstance(protocol, Mapping) else getattr(protocol, "mu", "paper")) == "released"


def coupling_slug(coupling: Part) -> str:
    """Short name of a coupling in folder names and tables' keys: ic, ot, ot-512, gc-0.5, gc-0.3-frozen, my-function."""
    match coupling:
        case Independent():
            return "ic"
        case BatchOT():
            return "ot" if coupling.scope == "process" else f"ot-{coupling.size or 'global'}"
        case GeneratorAugmented():
            extra = [part for part in (coupling.predictor, coupling.variant) if part not in ("ema", "gc")]
            return "-".join(["gc", f"{coupling.mu:g}", *extra])
        case Custom():
            return re.sub(r"[^a-z0-9]+", "-", coupling.source.rsplit(":", 1)[1].lower()).strip("-")
    raise TypeError(f"not a coupling: {coupling!r}")


def coupling_label(coupling: Part) -> str:
    """The coupling as the paper writes it: iCT-IC, iCT-OT, iCT-GC (mu=0.5)."""
    match coupling:
        case Independent():
            return "IC"
        case BatchOT():
            return "OT" if coupling.scope == "process" else f"OT ({coupling.size or 'global'})"
        case GeneratorAugmented():
            extra = [part for part in (coupling.predictor, coupling.variant) if part not in ("ema", "gc")]
            return f"GC ({', '.join([f'mu={coupling.mu:g}', *extra])})"
    return coupling_slug(coupling)


def canonical_json(value: object) -> str:
    """Sorted keys, no white space: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: object, digits: int = 12) -> str:
    """The first hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def identity_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a full config dictionary without the keys that cannot change the result."""
    seen = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items() if key not in NOT_IDENTITY}
    for (part, key), value in LATER.items():
        if isinstance(seen.get(part), dict) and seen[part].get(key, value) == value:
            seen[part].pop(key, None)
    return short_hash(seen, 64)
