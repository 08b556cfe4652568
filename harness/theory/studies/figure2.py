"""Figure 2: the proxy Rtil_t of every coupling, by the denoiser trained on its pairs, and exactly where that can be done.

By a denoiser (case ""): the paper's way, too large by E|D - E[endpoint | x_t]|^2/t^2. Exactly: IC by the oracle (case "exact"), GC by the
ideal flow (gc-ideal). For IC both are at hand, so the estimator's bias is measured (rtil-bias). All couplings see the same data rows and
the same noise at every t.

What to expect at low t: on finite data the exact value vanishes, which no network of a modest size follows, so there a denoiser tells what
a smooth law would have. And f(x, sigma_0) = x makes GC the same as IC, while batch-OT's noise still depends on its data: the order
GC < OT cannot hold down to sigma_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.config.identity import NOT_IDENTITY
from harness.config.run import BatchOT, GeneratorAugmented, Independent, Run, coupling_label, coupling_slug
from harness.core import couplings
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import at_level, noised
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like, proxy, proxy_ic
from harness.theory.proxy_gc import proxy_gc
from harness.theory.studies.common import Row, Setting, check_unconditional, row
from harness.theory.studies.run_pairs import together
from harness.training import trained_runs, user_couplings
from harness.training.trained_runs import TrainedRun

LEVELS = (0.002, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
ROWS, POOLS = 8192, 16
"""Pairs at each level: so many, or so many assignments of the largest batch-OT where that is more."""
EXACT_ROWS = 32_768
"""Noises at each level for IC by the oracle: with them Rtil of the 1,797 digits at t = 1 has the error 0.014."""
BATCH = 512
"""Rows that pass through a network at once."""
IDEAL_ROWS, PILOT_ROWS, PROPOSALS, LEAST_DRAWS = 256, 8, 64, 5.0
"""GC with the ideal flow: rows (at most), rows that tell whether there are posterior draws enough, proposals a row, and that least."""
IDEAL_WORK = {"toy": 6e6, "cpu": 6e7, "cuda": 5e10}
"""What a level may cost on a device, or at the toy scale, as rows x points x (dimensions + 80): on one CPU core, 1e7 take 3 to 5 s."""


@dataclass(frozen=True)
class Common:
    """What all couplings of a data set are measured on: data rows x, noise z like x, and the exact truth about the data."""

    data: Dataset
    x: Tensor
    z: Tensor
    oracle: Oracle


def measure(setting: Setting) -> list[Row]:
    """rtil and rtil-bias rows at LEVELS, or at the setting's own.

    Raises HarnessError for a run that is not finished or knows labels, and when no run is a denoiser.
    """
    runs = [run for run in setting.runs if run.objective.kind == "denoiser"]
    if not runs:
        raise HarnessError(
            "a coupling without a denoiser has no proxy",
            where="figure2",
            found="no denoiser among the runs",
            expected="one run with objective.kind = denoiser a coupling",
            nearest=setting.mend or None,
        )
    for run in runs:
        check_unconditional(run)
    levels = sorted(setting.levels or LEVELS)
    made: list[Row] = []
    for name, limit in dict.fromkeys((run.data.name, run.data.limit) for run in runs):
        mine = [run for run in runs if (run.data.name, run.data.limit) == (name, limit)]
        loaded = [setting.finished(run) for run in mine]
        common = common_pairs(loaded[0].data, mine)
        setting.tell(f"{name}: IC exactly, at {len(levels)} levels")
        exact = {t: exact_ic(common, t, address) for address, t in enumerate(levels)}
        told = {"coupling": "ic", "case": "exact", "label": "IC, exact", "protocol": {"by": "oracle", "rows": EXACT_ROWS}}
        made += [row("rtil", name, found, x=t, **told) for t, found in exact.items()]
        for run, denoiser in zip(mine, loaded, strict=True):
            setting.tell(f"{name}: {run.slug}, {len(common.x):,} pairs at each level")
            made += by_denoiser(setting, run, denoiser, common, exact)
        made += ideal(setting, common, levels)
    return made


def common_pairs(data: Dataset, runs: Sequence[Run]) -> Common:
    """Rows of the data, all equally often up to one, with one noise each: common to all couplings and levels."""
    n = max(ROWS, *(POOLS * (together(run) or 1) for run in runs))
    x = data.batch(draw_rows(len(data), n, generator(0, "measure", 0)))
    return Common(data, x, noise_like(x, generator(0, "measure", 1)), Oracle(data.rows))


def exact_ic(common: Common, t: float, address: int) -> Estimate:
    """Rtil_t of IC by the oracle: over the whole data set as often as EXACT_ROWS allows, or over the common rows of a larger one."""
    total, draws = len(common.oracle), generator(0, "measure", 2 + address)
    if total > EXACT_ROWS:
        return proxy_ic(common.oracle, common.x, t, draws)
    return proxy_ic(common.oracle, common.oracle.data(), t, draws, max(2, EXACT_ROWS // total), whole=True)


def by_denoiser(setting: Setting, run: Run, denoiser: TrainedRun, common: Common, exact: dict[float, Estimate]) -> list[Row]:
    """The proxy of a run's coupling by the run's denoiser, at each t of `exact`; for IC beside the exact value, with its bias."""
    built, group = user_couplings.build(run), together(run)
    x, z, function = common.x, common.z, built.function
    if built.ahead:  # these pairs are the same at every level
        batches = zip(x.split(group), z.split(group), strict=True)
        z = torch.cat([function(a, b, None, None, None)[1] for a, b in batches])
        function = couplings.independent
    frozen = predictor(setting, run) if built.predictor == "frozen" else None
    key, label = named(run, frozen)
    rest = {"run": run, "coupling": key, "label": label, "protocol": protocol_of(run, len(x))}
    independent = isinstance(run.coupling, Independent)
    made = []
    for address, (t, truth) in enumerate(exact.items()):
        draws = generator(run.seed, "measure", 1000 + address)
        found = proxy(function, denoiser, x, z, t, draws, frozen or denoiser, batch=group or BATCH, dependent=group is not None)
        made.append(row("rtil", run.data.name, found, truth=truth if independent else None, x=t, **rest))
        if independent:
            above, difference = bias(denoiser, common, t)
            made.append(row("rtil-bias", run.data.name, above, truth=difference, x=t, **rest))
            setting.tell(f"  t = {t:g}: {found.value:.4g}, exactly {truth.value:.4g}; too large by {above.value:.3g}{_share(above, truth)}")
    return made


def _share(above: Estimate, truth: Estimate) -> str:
    return f" ({above.value / truth.value:.1%})" if truth.value > 1e-3 * above.value else ""


@torch.no_grad()
def bias(denoiser: TrainedRun, common: Common, t: float) -> tuple[Estimate, Estimate]:
    """By how much IC's proxy is too large with this denoiser: E|D - D*|^2/t^2; and the same as E|x* - D|^2/t^2 - E|x* - D*|^2/t^2, both
    over the same pairs. The two agree if D* is the posterior mean."""
    parts = []
    for x, z in zip(common.x.split(BATCH), common.z.split(BATCH), strict=True):
        level = at_level(x, t)
        x_t = noised(x, z, level)
        found, best = denoiser(x_t, level), common.oracle.denoise(x_t, level)
        squares = [gap.double().flatten(1).square().sum(1) for gap in (found - best, x - found, x - best)]
        parts.append(torch.stack([squares[0], squares[1] - squares[2]]) / t**2)
    above, difference = torch.cat(parts, 1)
    return mean(above), mean(difference)


def predictor(setting: Setting, run: Run) -> TrainedRun:
    """The trained model whose endpoints a run's GC pairs have. Raises HarnessError when it is not done."""
    return trained_runs.load(setting.store.find(run.coupling.frozen), setting.device, torch.float32, run.coupling.frozen_step)


def named(run: Run, frozen: TrainedRun | None) -> tuple[str, str]:
    """(key, label) of a run's coupling: batch-OT by its size, GC by the model that predicts its endpoints."""
    if isinstance(run.coupling, BatchOT):
        return f"ot-{together(run)}", f"batch-OT ({together(run)})"
    predicts = frozen.run.coupling if frozen else None
    coupling = predicts if isinstance(predicts, GeneratorAugmented) and run.coupling.variant == "gc" else run.coupling
    return coupling_slug(coupling), coupling_label(coupling)


def protocol_of(run: Run, rows: int) -> dict[str, Any]:
    """How an estimate by a denoiser was made, the coupling apart: what must be equal where couplings are compared."""
    training = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "coupling", "seed", "evaluation")}
    return {"by": "denoiser", "rows": rows, "training": training}


def ideal(setting: Setting, common: Common, levels: Sequence[float]) -> list[Row]:
    """GC with the ideal flow, from the highest level down for as long as there are posterior draws enough to tell its value.

    Few rows have an endpoint that is uncertain at all. A level where one of them or none was met (se as large as the value) is left out.
    """
    name, (points, d) = common.data.name, common.oracle.points.shape
    most = IDEAL_WORK["toy" if setting.scale == "toy" else setting.device.type]
    rows = min(IDEAL_ROWS, int(most / (points * (d + 80))))
    if rows < 2 * PILOT_ROWS:
        setting.tell(f"{name}: GC with the ideal flow left out, {points:,} points cost too much on {setting.device}")
        return []
    made: list[Row] = []
    protocol = {"by": "ideal flow", "rows": rows, "proposals": PROPOSALS}
    for address, t in enumerate(sorted(levels, reverse=True)):
        draws = generator(0, "measure", 2000 + address)
        drawn = draw_rows(points, rows, draws)
        pilot = proxy_gc(common.oracle, drawn[:PILOT_ROWS], t, draws, PROPOSALS)
        if pilot.draws < LEAST_DRAWS:
            setting.tell(f"{name}: GC with the ideal flow, no further than t = {t:g}: {pilot.draws:.1f} posterior draws a row")
            break
        found = proxy_gc(common.oracle, drawn, t, draws, PROPOSALS).value
        told = found.value > 1.25 * found.se > 0
        setting.tell(f"{name}: GC with the ideal flow, t = {t:g}: {found}{'' if told else ', left out'}")
        if told:
            made.append(row("rtil", name, found, coupling="gc-ideal", label="GC, ideal flow", x=t, protocol=protocol))
    return made
