"""Changes of the presets for Tables 2 and 3, Figure 4 and the other ablations. Choices on which the paper is silent are marked [chosen]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.config import parts, presets
from harness.config.curriculum import grid_points, stage_length
from harness.config.edm2 import edm2_network, small_edm2
from harness.config.run import Run, varied
from harness.config.speed import BF16, FP32, fast_settings

Length = Literal["short", "long"]


@dataclass(frozen=True)
class Tuning:
    """ECT at a scale: the learning rate, and the steps and EMA rate of a short and a long run."""

    lr: float
    steps: dict[Length, int]
    ema: dict[Length, float]


TUNING = {
    "toy": Tuning(1e-3, {"short": 400, "long": 1600}, {"short": 0.99, "long": 0.995}),  # [chosen]
    "digits": Tuning(1e-3, {"short": 600, "long": 2400}, {"short": 0.99, "long": 0.998}),  # [chosen]
    "fashion": Tuning(1e-4, {"short": 2000, "long": 20_000}, {"short": 0.998, "long": 0.9995}),  # [chosen]
    "paper": Tuning(1e-4, {"short": 4000, "long": 100_000}, {"short": 0.9993, "long": 0.9999}),
}
ONE_STAGE: dict[str, float] = {"q": 256, "double": 0}
"""ECT's one-hour recipe, that of the short runs: a single stage, t - r about t/256 at large t."""

EDM = {"cifar10": "edm-cifar10-32x32-uncond-vp.pkl", "ffhq64": "edm-ffhq-64x64-uncond-vp.pkl"}
"""File names of EDM's public weights (arXiv 2206.00364) by data set."""
EDM2 = "edm2-img64-s-1073741-0.075.pkl"
"""File name of EDM2's public weights (arXiv 2312.02696) for ImageNet-64, size S."""


def _edm_network(mult: tuple[int, ...]) -> parts.Network:
    """EDM's unconditional DDPM++ with ECT's dropout; the augmentation labels are always zero."""
    blocks, dropout = (4,) * len(mult), (0.2,) * len(mult)
    return parts.Network(kind="ddpmpp", channel_mult=mult, num_blocks=blocks, attention=(16,), dropout=dropout, augment_dim=9)


EDM_NETWORKS = {"cifar10": _edm_network((2, 2, 2)), "ffhq64": _edm_network((1, 2, 2, 2))}


@dataclass(frozen=True)
class ConditionalTuning(Tuning):
    """ECT of a conditional EDM2 at a scale.

    c: of the pseudo-Huber distance, 0.06 at the 12,288 values of ImageNet-64 and in proportion to the root of their number elsewhere, as
    iCT's. denoiser_lr: that of the denoiser, where the harness trains it.
    """

    data: str
    network: parts.Network
    c: float
    denoiser_lr: float | None = None


CONDITIONAL = {
    "digits": ConditionalTuning(
        lr=1e-2, steps={"long": 2000}, ema={"long": 0.998}, data="digits", network=small_edm2(8, 16, (1, 2), 1), c=0.0043, denoiser_lr=1e-2
    ),  # [chosen]
    "fashion": ConditionalTuning(
        lr=3e-3, steps={"long": 20_000}, ema={"long": 0.9995}, data="fashion-mnist", network=small_edm2(32, 16, (1, 2, 2), 1), c=0.0173,
        denoiser_lr=1e-2,
    ),  # [chosen]
    "paper": ConditionalTuning(
        lr=1e-3, steps=TUNING["paper"].steps, ema=TUNING["paper"].ema, data="imagenet64", network=edm2_network("s", dropout=0.4), c=0.06
    ),
}  # fmt: skip
"""Table 2's conditional EDM2 by scale; there is none for points. The short run's EMA rate at the paper scale is CIFAR-10's [chosen]."""
EDM2_TIMES: dict[str, Any] = {"p_mean": -0.8, "p_std": 1.6}
"""The law of ln t of EDM2's denoisers at 64 pixels, and of their tuning by ECT."""


def ect_data(scale: str) -> tuple[str, ...]:
    """The data sets of Table 2's unconditional rows at a scale."""
    return tuple(EDM) if scale == "paper" else presets.scale(scale).table1[:1]


def ect(scale: str, data: str, length: Length, coupling: parts.Coupling, seed: int) -> list[Run]:
    """The ECT run, preceded by the denoiser that it starts from; at the paper scale it starts from EDM's public weights instead.

    The short run has one stage, the long one q = 2 and ten stages, at the paper scale of 1.28 million images each [chosen]. IC and GC have
    the same dropout, which Table 2 does not compare [chosen]. FFHQ-64 is trained like CIFAR-10 [chosen]. Two steps go through t = 0.821.
    """
    tuning = TUNING[scale]
    steps = tuning.steps[length]
    stages = ONE_STAGE if length == "short" else {"q": 2, "double": steps // 10}
    objective = parts.EasyConsistencyTuning.model_validate(stages)
    denoisers: list[Run] = []
    if scale == "paper":
        base = presets.make(scale, "cifar10", coupling, seed)
        start = parts.Init(kind="edm", ref=EDM[data])
        base = base.model_copy(update={"data": parts.Data(name=data), "network": EDM_NETWORKS[data]})
        batch = 128
    else:
        denoisers = [base := presets.denoiser(scale, data, parts.Independent(), seed)]
        start, batch = parts.Init(kind="run", ref=base.id), base.train.batch
    optimisation = {"batch": batch, "lr": tuning.lr, "optimizer": "radam", "betas": (0.9, 0.999)}
    return [*denoisers, _tuned(base, start, tuning, length, objective, coupling, optimisation, mid=0.821)]


def ect_conditional(scale: str, length: Length, coupling: parts.Coupling, seed: int) -> list[Run]:
    """The ECT run of the scale's conditional EDM2, preceded by its denoiser; at the paper scale it starts from EDM2's public weights.

    The long run is ECT's setting for ImageNet-64: q = 4 in four stages, pseudo-Huber distance, EDM's weight, Adam with a rate that falls
    from the fiftieth part of the steps on. The short run has the single stage of CIFAR-10's, which is the fourth of the long one [chosen].
    IC and GC have the same dropout. Precision is fp32 as in all rows of the paper; ECT's for ImageNet-64 is not known [chosen].
    """
    tuning = CONDITIONAL[scale]
    steps = tuning.steps[length]
    stages = ONE_STAGE if length == "short" else {"q": 4, "double": steps // 4}
    objective = parts.EasyConsistencyTuning.model_validate(EDM2_TIMES | stages | {"c": tuning.c, "weighting": "edm"})
    optimisation: dict[str, Any] = {"optimizer": "adam", "betas": (0.9, 0.99), "zero_nonfinite": True}
    network: dict[str, Any] = {"data": parts.Data(name=tuning.data, labels=True), "network": tuning.network}
    decay = max(tuning.steps.values()) // 50
    denoisers: list[Run] = []
    if scale == "paper":
        base = presets.make(scale, "cifar10", coupling, seed).model_copy(update=network)
        start, batch, mid = parts.Init(kind="edm", ref=EDM2), 128, 1.526
    else:
        base = presets.denoiser(scale, tuning.data, parts.Independent(), seed)
        train = optimisation | {"lr": tuning.denoiser_lr, "lr_decay_from": base.train.steps // 10}
        law = {"objective": parts.Denoising.model_validate(EDM2_TIMES), "train": base.train.model_copy(update=train)}
        base = Run.model_validate({**dict(base), **network, **law})
        denoisers = [base]
        start, batch, mid = parts.Init(kind="run", ref=base.id), base.train.batch, 0.821
    optimisation |= {"batch": batch, "lr": tuning.lr, "lr_decay_from": decay}
    return [*denoisers, _tuned(base, start, tuning, length, objective, coupling, optimisation, mid)]


def _tuned(
    base: Run, start: parts.Init, tuning: Tuning, length: Length, objective: parts.EasyConsistencyTuning, coupling: parts.Coupling,
    optimisation: Mapping[str, Any], mid: float,
) -> Run:  # fmt: skip
    """The ECT run of a length on the data and network of `base`. mid: noise level between the two steps of two-step sampling."""
    steps = tuning.steps[length]
    evaluations = 5 if length == "short" else 20 if base.scale == "paper" else 10
    changes = {
        "init": start,
        "objective": objective,
        "coupling": coupling,
        "train": base.train.model_copy(update={"steps": steps, **optimisation}),
        "ema": parts.Ema(rate=tuning.ema[length]),
        "evaluation": base.evaluation.model_copy(update={"every": steps // evaluations, "times": (mid,)}),
        "checkpoint_every": max(1, steps // 20),
    }
    return Run.model_validate({**dict(base), **changes})


def ic_and_gc(scale: str, seeds: Sequence[int]) -> list[Run]:
    """Table 1's IC and GC (mu = 0.5) on the scale's main data set, which an ablation varies."""
    return presets.grid(scale, [parts.Independent(), parts.GeneratorAugmented(mu=0.5)], seeds, presets.scale(scale).table1[:1])


def speed_profiles(run: Run) -> list[Run]:
    """The run in fp32, with --fast, and in bf16 without compilation; without those that are equal to an earlier one."""
    exact = varied(run, train=FP32)
    profiles = (varied(exact, train=settings) for settings in ({}, fast_settings(exact.to_dict()), BF16))
    return list({profile.id: profile for profile in profiles}.values())


def with_other_dropout(run: Run) -> Run:
    """The run with dropout switched, as in Table 3: off where it is on, else IC's rates, or CIFAR-10's 0.3 where IC has none [chosen]."""
    usual = presets.preset(run.scale, run.data.name).network.dropout
    rates = usual if any(usual) else (0.3,) * len(usual)
    return varied(run, network={"dropout": (0.0,) * len(rates) if any(run.network.dropout) else rates})


def weak_step(run: Run) -> int:
    """The training step at which a model of this run is Figure 4's weak predictor: 20,000 of 100,000."""
    return round(0.2 * run.train.steps)


def complete_short(run: Run) -> Run:
    """A weak model from a complete schedule of `weak_step` steps, in which the grid grows to n1 intervals."""
    steps = weak_step(run)
    return varied(run, train={"steps": steps}, evaluation={"every": min(run.evaluation.every, steps)})


def first_part(run: Run) -> Run:
    """The first part of an iCT run as a run of its own: bit for bit its weights up to `weak_step`, whose checkpoint is kept.

    It ends with the stage of the grid in which this step lies, beyond which its grid does not grow; random draws depend on their step
    alone. A checkpoint of `run` itself would be the same, but `run` would have to be trained again wherever it was not kept.
    """
    step, law = weak_step(run), run.objective
    assert isinstance(law, parts.ConsistencyTraining)
    length = stage_length(run.train.steps, law.n0, law.n1)
    steps = math.ceil(step / length) * length
    last_intervals = grid_points(step - 1, run.train.steps, law.n0, law.n1) - 1
    part = varied(run, train={"steps": steps}, objective={"n1": last_intervals}, evaluation={"every": step})
    return part.model_copy(update={"keep_steps": (step,)})
