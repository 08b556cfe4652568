"""Figure 1: sample paths of PF-ODE, IC and GC on the paper's two Gaussians (closed form) and on two moons (exact, by the oracle), from
t = 5 down; GC's by the ideal flow and by a trained model.

An IC path is the line x + t z; a GC path the line f(x + 5 z, 5) + t z of the pair that GC makes at t = 5. Each is held against the PF-ODE
path that starts where it starts. The paper says that IC's paths cross, and that GC's do so less and stay nearer to the PF-ODE's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config.run import Run, coupling_slug
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, karras_levels, trajectory
from harness.theory.gaussian import two_gaussians
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.paths import Paths, passing, sample_paths, straightness
from harness.theory.proxy import noise_like
from harness.theory.studies.common import Row, Setting, row, said_negative

SCALE = "toy"
"""The figure is about points in the plane whatever the scale."""
DATA = ("two-gaussians", "two-moons")
T_MAX, STEPS, PATHS, DRAWN = 5.0, 32, 96, 24


def measure(setting: Setting) -> list[Row]:
    """Rows path (of the first DRAWN paths), path-distance, path-end, path-crossing and path-straightness of each data set.

    Raises HarnessError for levels, which paths have none of, and for a run that is not finished or is not of these data.
    """
    if setting.levels is not None:
        raise HarnessError("sample paths run through all noise levels", where="--t", found=setting.levels, expected="no --t for figure1")
    strange = [run.id for run in setting.runs if run.data.name not in DATA]
    if strange:
        raise HarnessError("Figure 1 is about other data", where="figure1", found=", ".join(strange), expected=", ".join(DATA))
    made: list[Row] = []
    for name in DATA:
        denoiser, x = source(name, PATHS)
        z = noise_like(x, generator(0, "measure", 1))
        setting.tell(f"{name}: {PATHS} paths of PF-ODE, IC and GC by the ideal flow")
        exact = sample_paths(denoiser, x, z, T_MAX, steps=STEPS)
        made += of_paths(name, exact, denoiser)
        for place, run in enumerate(run for run in setting.runs if run.data.name == name):
            setting.tell(f"{name}: GC by the model of {run.slug}")
            found = setting.finished(run, torch.float64)
            trained = sample_paths(denoiser, x, z, T_MAX, f=found.network.cpu(), steps=STEPS)
            made += of_trained(name, trained, denoiser, run, drawn=place == 0)
    return made


def source(name: str, n: int) -> tuple[Function, Tensor]:
    """The exact denoiser of a toy law, and n of its points, float64 on the CPU."""
    draws = generator(0, "measure", 0)
    if name == "two-gaussians":
        law = two_gaussians()
        return law.denoise, law.sample(n, draws)
    data = datasets.load(name)
    oracle = Oracle(data.rows, torch.float64)
    return oracle.denoise, oracle.data(draw_rows(len(data), n, draws))


def of_paths(name: str, paths: Paths, denoiser: Function) -> list[Row]:
    """PF-ODE, IC, and GC by the ideal flow."""
    ode, ic, gc = ({"coupling": key, "label": label} for key, label in KINDS.items())
    made = [row("path-crossing", name, share(passing(paths.ode)), **told(ode))]
    made.append(row("path-straightness", name, mean(torch.from_numpy(straightness(paths.ode))), **told(ode)))
    for key, line in ((ic, paths.ic), (gc, paths.gc_line)):
        made += numbers(name, line, key, denoiser)
        made.append(row("path-straightness", name, mean(torch.from_numpy(straightness(line))), truth=1.0, **told(key)))
    made += less_than_ic(name, paths, paths.gc_line, gc, denoiser)
    anew = gc | {"case": "predicted anew at each t"}
    made.append(row("path-crossing", name, share(passing(paths.gc)), **told(anew)))
    made.append(row("path-straightness", name, mean(torch.from_numpy(straightness(paths.gc))), **told(anew)))
    made += points(name, paths.ode, paths.times, ode, 1)
    return made + [one for line, key in ((paths.ic, ic), (paths.gc_line, gc)) for one in points(name, line, paths.times, key, STEPS)]


def of_trained(name: str, paths: Paths, denoiser: Function, run: Run, drawn: bool) -> list[Row]:
    """GC by a trained model, its errors against the exact PF-ODE."""
    key = {"coupling": coupling_slug(run.coupling), "label": "GC, trained model", "run": run}
    made = numbers(name, paths.gc_line, key, denoiser) + less_than_ic(name, paths, paths.gc_line, key, denoiser)
    return made + (points(name, paths.gc_line, paths.times, key, STEPS) if drawn else [])


KINDS = {"pf-ode": "PF-ODE", "ic": "IC", "gc-ideal": "GC, ideal flow"}


def told(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"protocol": {"paths": PATHS, "steps": STEPS, "t_max": T_MAX}, **key}


def numbers(name: str, line: np.ndarray, key: Mapping[str, Any], denoiser: Function) -> list[Row]:
    """How far the paths of a kind are from the PF-ODE's that start where they start, on the way and at the end; how many pairs cross."""
    apart = distances(line, denoiser)
    made = [row("path-distance", name, mean(apart.mean(0)), **told(key)), row("path-end", name, mean(apart[-1]), **told(key))]
    return [*made, row("path-crossing", name, share(passing(line)), **told(key))]


def less_than_ic(name: str, paths: Paths, line: np.ndarray, key: Mapping[str, Any], denoiser: Function) -> list[Row]:
    """The same less IC's, path by path with the same noise: what the paper says is negative."""
    gap = distances(line, denoiser) - distances(paths.ic, denoiser)
    rest = told(key) | {"case": "less IC's"}
    found = {"path-distance": mean(gap.mean(0)), "path-end": mean(gap[-1]), "path-crossing": share(passing(line) - passing(paths.ic))}
    return [said_negative(row(quantity, name, estimate, **rest)) for quantity, estimate in found.items()]


@torch.no_grad()
def distances(line: np.ndarray, denoiser: Function) -> Tensor:
    """|path - PF-ODE path from the same start| at each of the levels, equally spaced in t^(1/7); line (k, n, d) -> (k, n)."""
    start = torch.from_numpy(line[0])
    levels = karras_levels(at_level(start, T_MAX), SIGMA_MIN, len(line) - 1)
    return torch.stack(trajectory(denoiser, start, levels)).sub(torch.from_numpy(line)).norm(dim=2)


def share(pairs: np.ndarray) -> Estimate:
    """The mean over pairs of different paths, with the error of a mean over pairs of n independent paths; pairs (n, n), symmetric."""
    n = len(pairs)
    each = (pairs.sum(1) - pairs.diagonal()) / (n - 1)
    return Estimate(float(each.mean()), float(2 * each.std(ddof=1) / n**0.5), n)


def points(name: str, path: np.ndarray, times: np.ndarray, key: Mapping[str, Any], every: int) -> list[Row]:
    """Every so many points of the first DRAWN paths; of a line its two ends."""
    made = []
    for i in range(DRAWN):
        for k in range(0, len(times), every):
            x, y, t = (round(float(value), 5) for value in (*path[k, i], times[k]))
            made.append(row("path", name, y, x=x, t=t, path=i, **told(key)))
    return made
