"""Figure 1: sample paths of PF-ODE, IC and GC from t = 5 downward, on the paper's two Gaussians (closed form) and on two moons (oracle).

A path of IC is the line x + t z; a path of GC is the line f(x + 5 z, 5) + t z, where f is the ideal flow or a trained model. Each is
compared with the PF-ODE path from the same start. The paper states that GC paths cross less than IC paths and stay closer to the PF-ODE.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from harness.config.parts import Coupling
from harness.config.run import Run
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import HarnessError
from harness.store.measurements import MeasurementRow
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, karras_levels, trajectory
from harness.theory.gaussian import two_gaussians
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.paths import Paths, pair_mean, passing, sample_paths, straightness
from harness.theory.proxy import noise_like
from harness.theory.studies.common import NewRow, StudyContext, StudyPart, measure_parts, measured_row

SCALE = "toy"
"""The rows belong to this scale, whatever scale is asked for."""
DATA = ("two-gaussians", "two-moons")
T_MAX, STEPS, PATHS, DRAWN = 5.0, 32, 96, 24


def measure(context: StudyContext) -> list[MeasurementRow]:
    """Rows path (of the first DRAWN paths), path-distance, path-end, path-crossing and path-straightness of each data set.

    Raises HarnessError when the context has levels, and for a run that is not finished or of other data.
    """
    if context.levels is not None:
        raise HarnessError("sample paths run through all noise levels", where="--t", found=context.levels, expected="no --t for figure1")
    others = [run.id for run in context.runs if run.data.name not in DATA]
    if others:
        raise HarnessError("runs of other data than those of Figure 1", where="figure1", found=", ".join(others), expected=", ".join(DATA))
    parts = []
    for name in DATA:
        denoiser, x = exact_law(name, PATHS)
        z = noise_like(x, generator(0, "measure", 1))
        title = f"{name}: {PATHS} paths of PF-ODE, IC and GC by the ideal flow"
        parts.append(StudyPart(title, partial(_exact_paths, name, denoiser, x, z)))
        for place, run in enumerate(run for run in context.runs if run.data.name == name):
            rows = partial(_trained_paths, context, run, denoiser, x, z, drawn=place == 0)
            parts.append(StudyPart(f"{name}: paths of GC by the model of {run.slug}", rows))
    return measure_parts(parts, context)


def exact_law(name: str, n: int) -> tuple[Function, Tensor]:
    """The exact denoiser of a toy data set, and n of its points, float64 on the CPU."""
    draws = generator(0, "measure", 0)
    if name == "two-gaussians":
        law = two_gaussians()
        return law.denoise, law.sample(n, draws)
    data = datasets.load(name)
    oracle = Oracle(data.rows, torch.float64)
    return oracle.denoise, oracle.data(draw_rows(len(data), n, draws))


def _new_row(data: str, coupling: Coupling | str, label: str, run: Run | None = None) -> NewRow:
    protocol = {"paths": PATHS, "steps": STEPS, "t_max": T_MAX}
    return partial(measured_row, data=data, coupling=coupling, label=label, run=run, protocol=protocol)


def _exact_paths(name: str, denoiser: Function, x: Tensor, z: Tensor) -> list[MeasurementRow]:
    paths = sample_paths(denoiser, x, z, T_MAX, STEPS)
    labels = {"pf-ode": "PF-ODE", "ic": "IC", "gc-ideal": "GC, ideal flow"}
    ode, ic, gc = (_new_row(name, coupling, label) for coupling, label in labels.items())

    def straight(path: np.ndarray) -> Estimate:
        return mean(torch.from_numpy(straightness(path)))

    rows = [ode("path-crossing", pair_mean(passing(paths.ode))), ode("path-straightness", straight(paths.ode))]
    for new_row, line in ((ic, paths.ic), (gc, paths.gc_line)):
        rows += _numbers(distances(line, denoiser), passing(line), new_row)
        rows.append(new_row("path-straightness", straight(line), truth=1.0))
    rows += _less_than_ic(paths, gc, denoiser)
    case = "predicted again at each t"
    rows += [gc("path-crossing", pair_mean(passing(paths.gc)), case=case), gc("path-straightness", straight(paths.gc), case=case)]
    rows += _points(paths.ode, paths.times, ode, 1)
    return rows + _points(paths.ic, paths.times, ic, STEPS) + _points(paths.gc_line, paths.times, gc, STEPS)


def _trained_paths(context: StudyContext, run: Run, denoiser: Function, x: Tensor, z: Tensor, drawn: bool) -> list[MeasurementRow]:
    """Rows of GC by a trained model, compared with the exact PF-ODE; with its paths if `drawn`."""
    network = context.trained(run, torch.float64).network.cpu()
    paths = sample_paths(denoiser, x, z, T_MAX, STEPS, network)
    new_row = _new_row(run.data.name, run.coupling, "GC, trained model", run)
    rows = _numbers(distances(paths.gc_line, denoiser), passing(paths.gc_line), new_row) + _less_than_ic(paths, new_row, denoiser)
    return rows + (_points(paths.gc_line, paths.times, new_row, STEPS) if drawn else [])


def _numbers(gaps: Tensor, crossings: np.ndarray, new_row: NewRow) -> list[MeasurementRow]:
    """Distance from the PF-ODE path of the same start, as a mean over the levels and at the end, and the share of pairs that cross."""
    return [
        new_row("path-distance", mean(gaps.mean(0))),
        new_row("path-end", mean(gaps[-1])),
        new_row("path-crossing", pair_mean(crossings)),
    ]


def _less_than_ic(paths: Paths, new_row: NewRow, denoiser: Function) -> list[MeasurementRow]:
    """The numbers of GC minus those of IC, path by path with the same noise; the paper states that they are negative."""
    gaps = distances(paths.gc_line, denoiser) - distances(paths.ic, denoiser)
    crossings = passing(paths.gc_line) - passing(paths.ic)
    return _numbers(gaps, crossings, partial(new_row, case="less IC's", stated_negative=True))


@torch.no_grad()
def distances(line: np.ndarray, denoiser: Function) -> Tensor:
    """|path - PF-ODE path of the same start| at each of the levels, which are `karras_levels`; line (k, n, d) -> (k, n)."""
    start = torch.from_numpy(line[0])
    levels = karras_levels(at_level(start, T_MAX), SIGMA_MIN, len(line) - 1)
    return torch.stack(trajectory(denoiser, start, levels)).sub(torch.from_numpy(line)).norm(dim=2)


def _points(path: np.ndarray, times: np.ndarray, new_row: NewRow, every: int) -> list[MeasurementRow]:
    """Every `every`-th point of each of the first DRAWN paths."""
    rows = []
    for i in range(DRAWN):
        for k in range(0, len(times), every):
            x, y, t = (round(float(value), 5) for value in (*path[k, i], times[k]))
            rows.append(new_row("path", y, x=x, t=t, path=i))
    return rows
