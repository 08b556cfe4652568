"""The scales and the paper's hyper-parameter tables, from which `make` builds runs.

A scale changes presets only; the same code runs at every scale. Choices on which the paper is silent are marked [chosen].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from harness.config import parts
from harness.config.custom_data import custom_set, unknown_set
from harness.config.derived import RULES, derived
from harness.config.run import Run, varied
from harness.errors import HarnessError, unknown

DENOISING = parts.Denoising(p_mean=-1.1, p_std=2.0)
"""Noise levels as in consistency training: with EDM's (-1.2, 1.2) only one row in 4,000 lies above t = 20, too few to learn [chosen]."""

MAIN = (parts.Independent(), parts.BatchOT(), parts.GeneratorAugmented(mu=0.5))
"""The three models of Table 1: iCT-IC, iCT-OT, iCT-GC (mu = 0.5)."""


@dataclass(frozen=True)
class Scale:
    """The presets of a scale."""

    table1: tuple[str, ...]
    """The data sets of Table 1; the first is the main one."""
    seeds: int
    """Number of training seeds."""
    presets: dict[str, Run] = field(repr=False)
    """The run of IC with seed 0, by data set."""
    denoiser_steps: int | None = None
    """Training steps of a denoiser; None for those of a consistency model."""


def _unet(
    base: int, mult: tuple[int, ...], blocks: tuple[int, ...], dropout: tuple[float, ...], attention: tuple[int, ...] = ()
) -> parts.Network:
    return parts.Network(kind="ddpmpp", base_channels=base, channel_mult=mult, num_blocks=blocks, dropout=dropout, attention=attention)


def _paper(data: str, network: parts.Network, batch: int, steps: int, lr: float) -> Run:
    """A row of the paper's appendix tables: Lion, constant rate, fp32, EMA 0.9999, 50,000 samples."""
    return Run(
        scale="paper",
        data=parts.Data(name=data),
        network=network,
        train=parts.Training(steps=steps, batch=batch, lr=lr),
        evaluation=parts.Evaluation(every=steps // 20, samples=50_000),
        checkpoint_every=steps // 100,
    )


_CELEBA = _unet(128, (1, 2, 2, 2), (3, 3, 4, 5), (0.0, 0.0, 0.2, 0.2))

PAPER = {
    "cifar10": _paper("cifar10", _unet(128, (1, 2, 2), (3, 3, 3), (0.3, 0.3, 0.3)), batch=512, steps=100_000, lr=1e-4),
    "imagenet32": _paper(
        "imagenet32", _unet(128, (1, 1, 2), (3, 5, 7), (0.0, 0.2, 0.2), attention=(16,)), batch=512, steps=150_000, lr=8e-5
    ),
    "celeba64": _paper("celeba64", _CELEBA, batch=128, steps=150_000, lr=8e-5),
    "church64": _paper("church64", _CELEBA, batch=128, steps=150_000, lr=8e-5),  # IC's dropout is not stated: CelebA's [chosen]
}

FASHION = Run(
    scale="fashion",
    data=parts.Data(name="fashion-mnist"),
    network=_unet(64, (1, 2, 2), (2, 2, 2), (0.0, 0.0, 0.0)),
    train=parts.Training(steps=20_000, batch=256, lr=1e-4, precision="bf16", channels_last=True, compile=True),
    evaluation=parts.Evaluation(every=1000, samples=10_000),
    ema=parts.Ema(rate=0.999),
    objective=parts.ConsistencyTraining(n1=640),
)
FASHION_RARE = varied(FASHION, data={"name": "fashion-mnist-rare"})

# Tuned for IC with seed 0, then used for all couplings. Within 105 s on one core, two narrow levels and batch 64 beat wider levels and
# batches of 32 or 128 (IS 7.6 against 6.5 to 7.5); Lion at 4e-4, the paper's optimizer, equals Adam at 3e-3. copy_steps keeps the untrained
# first weights out of the average.
DIGITS = Run(
    scale="digits",
    data=parts.Data(name="digits"),
    network=_unet(16, (1, 1), (1, 1), (0.0, 0.0)),
    train=parts.Training(steps=2400, batch=64, lr=4e-4, threads=1),
    evaluation=parts.Evaluation(every=240, samples=1437),
    ema=parts.Ema(rate=0.998, copy_steps=240),
    objective=parts.ConsistencyTraining(n1=160),
    checkpoint_every=120,
)


# 5,000 samples: 50 of a class of 1 % are expected in each evaluation, with a binomial error of 14 % of that.
DIGITS_RARE = varied(DIGITS, data={"name": "digits-rare"}, evaluation={"samples": 5000})


def _toy(data: str) -> Run:
    return Run(
        scale="toy",
        data=parts.Data(name=data),
        network=parts.Network(kind="mlp", width=128, depth=3, dropout=(0.0,)),
        train=parts.Training(steps=1600, batch=128, lr=1e-3, optimizer="adam", threads=1),
        evaluation=parts.Evaluation(every=400, samples=500),
        ema=parts.Ema(rate=0.995),
        objective=parts.ConsistencyTraining(n1=160),
        checkpoint_every=250,
    )


TOYS = {name: _toy(name) for name in ("eight-gaussians", "two-moons", "two-gaussians")}
# Four times the usual steps: before, hardly a point of IC lies in any mode. 2,000 samples, which the exact W2 allows: 20 of a mode of 1 %
# are expected, with a binomial error of 22 %.
TOY_RARE = varied(_toy("eight-gaussians-rare"), train={"steps": 6400}, evaluation={"samples": 2000, "every": 800})

PRESETS_BY_SCALE = {
    "toy": Scale(("eight-gaussians",), seeds=3, presets=TOYS | {"eight-gaussians-rare": TOY_RARE}),
    "digits": Scale(("digits",), seeds=3, presets={"digits": DIGITS, "digits-rare": DIGITS_RARE}, denoiser_steps=2000),
    "fashion": Scale(("fashion-mnist",), seeds=3, presets={"fashion-mnist": FASHION, "fashion-mnist-rare": FASHION_RARE}),
    "paper": Scale(tuple(PAPER), seeds=1, presets=PAPER),
}


SMALL_IMAGES = 32
"""Pixels per side up to which a user's images are trained on like CIFAR-10 at the paper scale; larger ones like CelebA-64."""
_data: ContextVar[tuple[str, ...]] = ContextVar("data", default=())
_recorded: ContextVar[Mapping[str, parts.CustomData] | None] = ContextVar("recorded", default=None)


@contextlib.contextmanager
def of_data(names: Sequence[str] = (), known: Mapping[str, parts.CustomData] | None = None) -> Iterator[None]:
    """While the block declares runs, `scale` has these data sets in the place of those of Table 1; () for its own.

    known: users' sets that finished runs describe, for those that are not in the data folder.
    """
    tokens = _data.set(tuple(names)), _recorded.set(known)
    try:
        yield
    finally:
        _data.reset(tokens[0])
        _recorded.reset(tokens[1])


def recorded() -> Mapping[str, parts.CustomData]:
    """The users' sets that `of_data` was given."""
    return _recorded.get() or {}


def scale(name: str) -> Scale:
    """A scale by name. Raises UnknownName for an unknown one."""
    if name not in PRESETS_BY_SCALE:
        raise unknown("scale", name, PRESETS_BY_SCALE, where="--scale")
    found, chosen = PRESETS_BY_SCALE[name], _data.get()
    return replace(found, table1=chosen) if chosen else found


def preset(scale_name: str, data: str) -> Run:
    """The run of IC with seed 0 on a data set: the scale's own, or for a set that the user has prepared one that is derived from it.

    Raises HarnessError when there is none, and for a user's images at a scale of points.
    """
    presets = scale(scale_name).presets
    if data in presets:
        return presets[data]
    custom = custom_set(data) or recorded().get(data)
    if custom is None:
        raise unknown_set(data, list(presets), "data set of this scale", where=f"scale {scale_name}")
    if scale_name not in RULES:
        found, expected = f"images ({data})", f"one of {', '.join(RULES)}"
        raise HarnessError("this scale is about points", where="--scale", found=found, expected=expected, nearest="--scale digits")
    if scale_name != "paper":
        return derived(data, custom, next(iter(presets.values())))
    return derived(data, custom, presets["cifar10" if custom.shape[1] <= SMALL_IMAGES else "celeba64"])


def images_of(scale_name: str, data: str) -> int | None:
    """The number of training images of a set that the user has prepared, None for one of the scale's own. Raises as `preset`."""
    custom = preset(scale_name, data).data.custom
    return custom.train if custom else None


def make(scale_name: str, data: str, coupling: parts.Coupling, seed: int) -> Run:
    """The run of a scale's preset. GC trains without dropout, IC and batch-OT with the preset's (batch-OT's is not stated [chosen]).

    Raises HarnessError as `preset`.
    """
    run = Run.model_validate({**dict(preset(scale_name, data)), "coupling": coupling, "seed": seed})
    return without_dropout(run) if isinstance(run.coupling, parts.GeneratorAugmented) else run


def without_dropout(run: Run) -> Run:
    """The run with dropout rate 0 on every level."""
    return varied(run, network={"dropout": (0.0,) * len(run.network.dropout)})


def denoiser(scale_name: str, data: str, coupling: parts.Coupling, seed: int) -> Run:
    """A denoiser of a coupling's pairs, for its proxy: the scale's network and optimizer under EDM's loss.

    None has dropout, so that denoisers differ in the coupling alone; the proxy is about the distribution of the training data, so a closer
    fit is always better [chosen]. GC pairs need a frozen predictor. Raises HarnessError as `preset`.
    """
    run = without_dropout(make(scale_name, data, parts.Independent(), seed))
    steps = scale(scale_name).denoiser_steps or run.train.steps
    run = varied(run, train={"steps": steps}, evaluation={"every": min(run.evaluation.every, steps)})
    return run.model_copy(update={"objective": DENOISING, "coupling": coupling})


def grid(scale_name: str, couplings: Sequence[parts.Coupling], seeds: Sequence[int], data: Sequence[str] | None = None) -> list[Run]:
    """Every data set of the scale (or of `data`) x seed x coupling; seed by seed, so that complete comparisons come early."""
    names = data or scale(scale_name).table1
    return [make(scale_name, name, coupling, seed) for name in names for seed in seeds for coupling in couplings]
