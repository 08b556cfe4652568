"""The parts of a run's configuration, frozen and validated by pydantic; those of its coupling are in harness.config.couplings.

Fields, defaults and ranges are part of the identity of every stored run.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from harness.config.couplings import MIXES_ROWS as MIXES_ROWS
from harness.config.couplings import BatchOT as BatchOT
from harness.config.couplings import Coupling as Coupling
from harness.config.couplings import Custom as Custom
from harness.config.couplings import EntropicOT as EntropicOT
from harness.config.couplings import GeneratorAugmented as GeneratorAugmented
from harness.config.couplings import Independent as Independent
from harness.config.couplings import Variational as Variational
from harness.config.couplings import coupling_label as coupling_label
from harness.config.couplings import coupling_slug as coupling_slug
from harness.config.part import Choice as Choice
from harness.config.part import Count as Count
from harness.config.part import LogMean as LogMean
from harness.config.part import LogSpread as LogSpread
from harness.config.part import NoiseLevel as NoiseLevel
from harness.config.part import Part as Part
from harness.config.part import Positive as Positive
from harness.config.part import Rate as Rate
from harness.config.part import Size as Size

ScaleName = Literal["toy", "digits", "fashion", "paper"]
SCALE_NAMES: tuple[ScaleName, ...] = get_args(ScaleName)
"""The scales, the smallest first."""
Rehearsal = Annotated[str, Field(min_length=1, max_length=500)] | None
"""What is not real in a rehearsal, in words; None for what is real."""
REHEARSAL_PREFIX = "rehearsal-"
"""What the names of a rehearsal's runs and baselines begin with, and so what every one of their records names."""
SMOKE_TEST = "smoke test"
"""How the text of `Rehearsal` begins in the runs of a smoke test, which is a rehearsal of all runs of a plan."""
Features = Literal["inception", "classifier", "random"]
"""What measures a user's images: Inception, a small classifier trained on their labels, or a fixed random network."""
FEATURES: tuple[Features, ...] = get_args(Features)


class CustomData(Part):
    """A data set that a user has prepared from images, as its manifest describes it. `harness prepare` writes it; do not set it by hand."""

    shape: tuple[Size, Size, Size]
    """Channels, height and width of an image."""
    classes: Annotated[int, Field(ge=0, le=10**6, strict=True)]
    """Number of classes; 0 without labels."""
    train: Count
    """Number of training images."""
    heldout: Annotated[int, Field(ge=0, le=10**9, strict=True)]
    """Number of held-out images."""
    features: Features
    """Network whose features measure the images."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the prepared arrays, so that another set of the same name is another run."""

    @property
    def label(self) -> str:
        """The set in one line: its images and the beginning of its hash."""
        classes = f" in {self.classes} classes" if self.classes else ""
        return f"{self.train:,} images of {'x'.join(map(str, self.shape))}{classes}, {self.heldout:,} held out, sha256 {self.sha256[:12]}"


class Data(Part):
    """The training data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    """Name of the data set: one of those in harness.data.catalogue, or one that the user has prepared."""
    custom: CustomData | None = None
    """What a set of the user's own images is; --data NAME fills it in. None for the sets of the catalogue."""
    limit: Count | None = None
    """Number of training rows used; None for all."""
    labels: bool = False
    """Whether the network is conditioned on the class."""


class Network(Part):
    """The network F of the consistency function."""

    kind: Literal["ddpmpp", "ncsnpp", "edm2", "mlp", "linear"]
    """Architecture: the U-Nets DDPM++, NCSN++ and EDM2 for images, an MLP for points, one linear coefficient per noise level for points."""
    base_channels: Annotated[int, Field(ge=4, le=2**16, strict=True)] = 128
    """Channels of the U-Net before the multipliers."""
    channel_mult: tuple[Size, ...] = (1, 2, 2)
    """Channel multiplier of each level of the U-Net, finest level first."""
    num_blocks: tuple[Annotated[int, Field(ge=1, le=1000, strict=True)], ...] = (3, 3, 3)
    """Residual blocks of each level."""
    attention: tuple[Size, ...] = ()
    """Resolutions with self-attention; the first decoder block always has it."""
    dropout: tuple[Rate, ...] = (0.0, 0.0, 0.0)
    """Dropout rate of each level; one value for the MLP."""
    augment_dim: Annotated[int, Field(ge=0, le=2**16, strict=True)] = 0
    """Inputs of EDM's augmentation embedding, which is always fed zeros; needed to load EDM's weights."""
    channels_per_head: Size = 64
    """Channels of each attention head of EDM2; the other U-Nets have one head."""
    width: Size = 256
    """Hidden width of the MLP."""
    depth: Annotated[int, Field(ge=1, le=1000, strict=True)] = 3
    """Hidden layers of the MLP."""

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        if self.kind == "mlp" and len(self.dropout) != 1:
            raise ValueError("an MLP takes one dropout rate")
        if self.kind == "linear" and any(self.dropout):
            raise ValueError("a linear network has no dropout")
        if self.kind == "edm2":
            self._fits_edm2()
        if self.kind not in ("mlp", "linear") and not len(self.channel_mult) == len(self.num_blocks) == len(self.dropout):
            raise ValueError("channel_mult, num_blocks and dropout need one value per level")
        return self

    def _fits_edm2(self) -> None:
        coarsest = self.base_channels * self.channel_mult[-1] if self.channel_mult else 0
        if coarsest % self.channels_per_head:
            raise ValueError(f"the coarsest level has attention: its {coarsest} channels must be a multiple of channels_per_head")
        if self.augment_dim:
            raise ValueError("EDM2 has no augmentation embedding: augment_dim must be 0")


class Noise(Part):
    """The EDM noise range and scale, sigma_t = t."""

    sigma_min: NoiseLevel = 0.002
    """Lowest noise level."""
    sigma_max: NoiseLevel = 80.0
    """Highest noise level, from which samples start."""
    sigma_data: NoiseLevel = 0.5
    """Standard deviation of the data assumed by the preconditioning."""
    rho: Annotated[float, Field(ge=0.1, le=1000, strict=True)] = 7.0
    """Exponent of the grid of noise levels; larger values put more levels near sigma_min."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must lie below sigma_max")
        if self.sigma_max < 1.001 * self.sigma_min:  # in float32, neighbouring levels of the grid would be equal
            raise ValueError("sigma_max must be at least 1.001 times sigma_min")
        return self


class ConsistencyTraining(Part):
    """iCT: N(k) grid, pseudo-Huber distance, weights 1/(sigma_{i+1} - sigma_i), log-normal time law."""

    kind: Literal["ict"] = "ict"
    """Consistency training with the iCT recipe (arXiv 2310.14189)."""
    n0: Annotated[int, Field(ge=1, le=10**6, strict=True)] = 10
    """Intervals of the grid at the first step; the grid has one point more."""
    n1: Annotated[int, Field(ge=1, le=10**6, strict=True)] = 1280
    """Largest number of intervals of the grid."""
    p_mean: LogMean = -1.1
    """Mean of ln sigma in the log-normal law of the noise levels."""
    p_std: LogSpread = 2.0
    """Standard deviation of ln sigma in the log-normal law of the noise levels."""
    distance: Literal["pseudo-huber", "squared", "norm"] = "pseudo-huber"
    """Distance between the outputs at two neighbouring noise levels."""
    huber: Annotated[float, Field(ge=0, le=1e6, strict=True)] = 0.00054
    """Factor of the pseudo-Huber constant c = huber * sqrt(d), d the dimension of the data."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.n1 < self.n0:
            raise ValueError("n1 must be at least n0")
        return self


class EasyConsistencyTuning(Part):
    """ECT (arXiv 2406.14548): continuous times t, lower times r with r/t -> 1 in stages."""

    kind: Literal["ect"] = "ect"
    """Easy consistency tuning of a pre-trained diffusion model."""
    p_mean: LogMean = -1.1
    """Mean of ln t in the log-normal law of the times."""
    p_std: LogSpread = 2.0
    """Standard deviation of ln t in the log-normal law of the times."""
    q: Annotated[float, Field(gt=1, le=1e9, strict=True)] = 2.0
    """Base of the gap between r and t, which shrinks as q^-(stage + 1)."""
    k: Positive = 8.0
    """Factor by which the gap grows at small t."""
    b: Positive = 1.0
    """Rate at which that growth decays with t."""
    double: Annotated[int, Field(ge=0, le=10**9, strict=True)] = 10_000
    """Training steps of one stage; 0 stays in the first stage."""
    c: Annotated[float, Field(ge=0, le=1e6, strict=True)] = 0.0
    """Constant of the pseudo-Huber distance sqrt(|x - y|^2 + c^2) - c of the outputs at t and r; 0 for the plain norm |x - y|."""
    weighting: Literal["inverse-gap", "edm"] = "inverse-gap"
    """Weight of a row's loss: 1 / (t - r), or EDM's (t^2 + sigma_data^2) / (t sigma_data)^2."""


class Denoising(Part):
    """EDM's denoiser loss (arXiv 2206.00364), for the proxy Rtil_t of a coupling and for pre-training."""

    kind: Literal["denoiser"] = "denoiser"
    """Training of a denoiser."""
    p_mean: LogMean = -1.2
    """Mean of ln sigma in the log-normal law of the noise levels."""
    p_std: LogSpread = 1.2
    """Standard deviation of ln sigma in the log-normal law of the noise levels."""


Objective = Annotated[ConsistencyTraining | EasyConsistencyTuning | Denoising, Field(discriminator="kind")]


class Training(Part):
    """Optimisation."""

    steps: Count
    """Training steps."""
    batch: Annotated[int, Field(ge=1, le=2**20, strict=True)]
    """Rows of one step over all processes."""
    lr: Positive
    """Learning rate."""
    lr_decay_from: Count | None = None
    """Step from which the learning rate falls, as lr / sqrt(step / lr_decay_from); None for a constant one."""
    optimizer: Literal["lion", "radam", "adam"] = "lion"
    """Optimizer."""
    betas: tuple[Rate, Rate] = (0.9, 0.99)
    """Decay rates of the optimizer's moments."""
    zero_nonfinite: bool = False
    """Whether NaN and infinities in gradients are set to 0, and reported, instead of ending the run."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; weights and losses are always fp32."""
    channels_last: bool = False
    """Whether images are stored with their channels last, which is faster on recent GPUs."""
    compile: bool = False
    """Whether the network is compiled with torch.compile."""
    static_rows: bool = False
    """Whether rows that a network maps without gradient (endpoints of GC, samples) are padded to a few fixed numbers of rows, so that a
    compiled network is not compiled again for each number."""
    threads: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    """CPU threads of one process, which fix the order of sums; 0 for PyTorch's default."""


class Ema(Part):
    """The exponential moving average of the weights."""

    rate: Rate = 0.9999
    """Decay rate per step."""
    copy_steps: Annotated[int, Field(ge=0, le=10**9, strict=True)] = 0
    """Number of first steps in which the average is a copy of the weights."""
    sigma_rel: Annotated[float, Field(ge=0.001, le=0.288, strict=True)] | None = None
    """Relative length of a power-function average (arXiv 2312.02696), which replaces the one of constant rate; None for the latter."""

    @model_validator(mode="after")
    def _copies_once(self) -> Self:
        if self.sigma_rel is not None and self.copy_steps:
            raise ValueError("a power-function average begins with a copy of the weights: sigma_rel needs copy_steps = 0")
        return self


class Evaluation(Part):
    """Measurements during and after training."""

    every: Count
    """Training steps between evaluations; the last step is always evaluated."""
    samples: Annotated[int, Field(ge=1, le=10**7, strict=True)]
    """Generated samples of one evaluation."""
    resamplings: Annotated[int, Field(ge=1, le=1000, strict=True)] = 5
    """Evaluations of the last model, each with fresh noise; evaluations during training use one."""
    grid: Annotated[int, Field(ge=0, le=10**4, strict=True)] = 64
    """Number of images in the stored grid of samples."""
    times: Annotated[tuple[NoiseLevel, ...], Field(max_length=14)] = ()
    """Noise levels of the further steps of few-step sampling, in descending order, at most 14: the last model is measured with one step,
    with two steps through the first level, with three through the first two, and so on. () for one step only."""
    renoising: Literal["stochastic", "deterministic"] = "stochastic"
    """Noise that is added before a further step, to the level t: sqrt(t^2 - sigma_0^2) z, sigma_0 the level at which the model is the
    identity (0 for ECT, else sigma_min). stochastic: fresh z (arXiv 2303.01469, Algorithm 1; ECT's x + t z). deterministic: the z that the
    sample started from."""
    labels: Literal["data", "balanced"] = "data"
    """Classes of the samples of a conditional model. data: those of random training rows, so as often as in the data. balanced: the classes
    in turn, so equally often."""

    @model_validator(mode="after")
    def _renoises_between_steps(self) -> Self:
        """One step adds no noise again, so it is the same measurement."""
        if not self.times:
            object.__setattr__(self, "renoising", "stochastic")  # the model is frozen
        return self


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
    tf32: Literal["library", "on", "off"] = "library"
    """paper: not stated. released: library, PyTorch's default (on GPUs, TF32 for convolutions); on: also for matrix products; off: none."""
    last_batch: Choice = "paper"
    """paper: every batch is full. released: the last, partial batch of an epoch is kept."""


class Init(Part):
    """The weights that training starts from."""

    kind: Literal["run", "edm"]
    """Source of the weights: the EMA weights of another run, or EDM's public weights."""
    ref: str
    """Run id, or file name below the weights folder."""
