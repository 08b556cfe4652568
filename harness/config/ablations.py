"""Changes of the presets for Tables 2 and 3, Figure 4 and the other ablations. Choices on which the paper is silent are marked [chosen]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.config import parts, presets
from harness.config.curriculum import grid_points, stage_length
from harness.config.run import Run, varied

Length = Literal["short", "long"]


@dataclass(frozen=True)
class Tuning:
    """ECT at a scale: RAdam's learning rate, and the steps and EMA rate of a short and a long run.

    The short run has one stage with q = 256, ECT's one-hour recipe; the long run has q = 2 and ten stages.
    """

    lr: float
    steps: dict[Length, int]
    ema: dict[Length, float]


TUNING = {
    "toy": Tuning(1e-3, {"short": 400, "long": 1600}, {"short": 0.99, "long": 0.995}),  # [chosen]
    "digits": Tuning(1e-3, {"short": 600, "long": 2400}, {"short": 0.99, "long": 0.998}),  # [chosen]
    "fashion": Tuning(1e-4, {"short": 2000, "long": 20_000}, {"short": 0.998, "long": 0.9995}),  # [chosen]
    "paper": Tuning(1e-4, {"short": 4000, "long": 100_000}, {"short": 0.9993, "long": 0.9999}),
}

EDM = {"cifar10": "edm-cifar10-32x32-uncond-vp.pkl", "ffhq64": "edm-ffhq-64x64-uncond-vp.pkl"}
"""File names of EDM's public weights (arXiv 2206.00364) by data set."""


def _edm_network(mult: tuple[int, ...]) -> parts.Network:
    """EDM's unconditional DDPM++ with ECT's dropout; the augmentation labels are always zero."""
    blocks, dropout = (4,) * len(mult), (0.2,) * len(mult)
    return parts.Network(kind="ddpmpp", channel_mult=mult, num_blocks=blocks, attention=(16,), dropout=dropout, augment_dim=9)


EDM_NETWORKS = {"cifar10": _edm_network((2, 2, 2)), "ffhq64": _edm_network((1, 2, 2, 2))}


def ect_data(scale: str) -> tuple[str, ...]:
    """The data sets of Table 2 at a scale."""
    return tuple(EDM) if scale == "paper" else presets.scale(scale).table1[:1]


def ect(scale: str, data: str, length: Length, coupling: parts.Coupling, seed: int) -> list[Run]:
    """The ECT run, preceded by the denoiser that it starts from; at the paper scale it starts from EDM's public weights instead.

    IC and GC have the same dropout, which Table 2 does not compare [chosen]. FFHQ-64 is trained like CIFAR-10 [chosen].
    """
    tuning = TUNING[scale]
    steps = tuning.steps[length]
    objective = parts.EasyConsistencyTuning(q=256, double=0) if length == "short" else parts.EasyConsistencyTuning(q=2, double=steps // 10)
    start: dict[str, Any]
    if scale == "paper":
        base = presets.make(scale, "cifar10", coupling, seed)
        start = {"data": parts.Data(name=data), "network": EDM_NETWORKS[data], "init": parts.Init(kind="edm", ref=EDM[data])}
        denoisers, batch = [], 128
    else:
        base = presets.denoiser(scale, data, parts.Independent(), seed)
        start = {"init": parts.Init(kind="run", ref=base.id)}
        denoisers, batch = [base], base.train.batch
    optimisation = {"steps": steps, "batch": batch, "lr": tuning.lr, "optimizer": "radam", "betas": (0.9, 0.999)}
    evaluations = 5 if length == "short" else 20 if scale == "paper" else 10
    changes = {
        "objective": objective,
        "coupling": coupling,
        "train": base.train.model_copy(update=optimisation),
        "ema": parts.Ema(rate=tuning.ema[length]),
        "evaluation": base.evaluation.model_copy(update={"every": steps // evaluations}),
        "checkpoint_every": max(1, steps // 20),
    }
    run = Run.model_validate({**dict(base), **start, **changes})
    return [*denoisers, run]


def ic_and_gc(scale: str, seeds: Sequence[int]) -> list[Run]:
    """Table 1's IC and GC (mu = 0.5) on the scale's main data set, which an ablation varies."""
    return presets.grid(scale, [parts.Independent(), parts.GeneratorAugmented(mu=0.5)], seeds, presets.scale(scale).table1[:1])


def with_other_dropout(run: Run) -> Run:
    """The run with dropout switched, as in Table 3: off where it is on, else IC's rates, or CIFAR-10's 0.3 where IC has none [chosen]."""
    usual = presets.scale(run.scale).presets[run.data.name].network.dropout
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
