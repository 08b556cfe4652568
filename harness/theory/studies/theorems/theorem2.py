"""Theorem 2: how fast Rtil_t decreases with t for IC and for GC with the ideal flow, as slopes of ln Rtil against ln t with intervals.

Gaussian data and mixtures use formulas and importance sampling; a finite data set uses its oracle. Points in the plane are so dense that no
proposal reaches the required basin; their law (mixture-of-8) represents them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from harness.store.measurements import MeasurementRow
from harness.theory.estimate import Estimate, log_slope
from harness.theory.gaussian import Gaussian
from harness.theory.oracle import draw_rows
from harness.theory.proxy import proxy_ic
from harness.theory.proxy_gc import IdealProxy, proxy_gc, proxy_gc_smooth
from harness.theory.studies.common import StudyContext, measured_row
from harness.theory.studies.theorems.subjects import Subject, address, gaussians, mixtures

LEVELS = (8.0, 15.0, 25.0, 45.0, 80.0)
"""Noise levels for laws with a density."""
ROWS, PROPOSALS = 320, 64
FINITE = {5.0: 64, 7.5: 40, 11.0: 28, 16.0: 20, 22.0: 16, 30.0: 16}
"""Proposals per row at each level t on finite data. At lower t a row has too few valid draws; at higher t uncertain rows are too rare."""
FINITE_ROWS = 352
"""Rows on finite data, with the same noise at every t. Few rows are uncertain, mostly the same ones at every t, so the slope has less noise
than its interval says, which treats the errors of the points as independent."""
LEAST_DRAWS, MOST_EMPTY = 5.0, 0.05
"""The fit uses a level with at least this many effective draws per row, and at most this share of rows without any."""
STEPS = 24
IC_ROWS = 8192


def known(context: StudyContext) -> list[MeasurementRow]:
    """theorem2 and theorem2-rtil rows of Gaussian data, whose slopes are known, and of mixtures."""
    rows: list[MeasurementRow] = []
    for name, law in (gaussians() | mixtures()).items():
        x = law.sample(8192, address(name, "slopes"))
        ic = {t: proxy_ic(law, x, t, address(name, "ic", t)) for t in LEVELS}
        gc = {t: _reliable(proxy_gc_smooth(law, ROWS, t, address(name, "gc", t), PROPOSALS), ROWS) for t in LEVELS}
        truths: tuple[float | None, float | None] = (None, None)
        if isinstance(law, Gaussian):
            truths = exact_slope([law.proxy_ic(t) for t in LEVELS]), exact_slope([law.proxy_gc(t) for t in LEVELS])
        rows += rows_of(name, ic, gc, {"levels": LEVELS, "rows": ROWS, "proposals": PROPOSALS}, truths)
    return rows


def exact_slope(values: Sequence[float]) -> float:
    """The slope of exact values at LEVELS."""
    return log_slope(LEVELS, [Estimate(value, 0.0, 1) for value in values]).value


def measure(context: StudyContext, subject: Subject) -> list[MeasurementRow]:
    """theorem2 and theorem2-rtil rows of a finite data set of images; none for points."""
    if not subject.data.is_images:
        return []
    total = len(subject.fast)
    ic, gc = {}, {}
    for t, proposals in FINITE.items():
        all_data = total <= IC_ROWS
        x = subject.fast.data(None if all_data else draw_rows(total, IC_ROWS, address(subject.name, "rows", t)))
        ic[t] = proxy_ic(subject.fast, x, t, address(subject.name, "ic", t), all_data=all_data)
        chosen = draw_rows(total, FINITE_ROWS, address(subject.name, "gc rows"))
        gc[t] = _reliable(proxy_gc(subject.fast, chosen, t, address(subject.name, "gc"), proposals, STEPS), FINITE_ROWS)
    protocol = {"rows": FINITE_ROWS, "proposals": {str(t): number for t, number in FINITE.items()}}
    return rows_of(subject.name, ic, gc, protocol)


def _reliable(proxy: IdealProxy, rows: int) -> tuple[Estimate, bool]:
    """The value, and whether it is reliable enough for the fit."""
    return proxy.value, proxy.draws >= LEAST_DRAWS and proxy.empty <= MOST_EMPTY * rows


def rows_of(
    name: str,
    ic: Mapping[float, Estimate],
    gc: Mapping[float, tuple[Estimate, bool]],
    protocol: Mapping[str, Any],
    truths: tuple[float | None, float | None] = (None, None),
) -> list[MeasurementRow]:
    """The values at each level, unreliable ones of GC as "not fitted", and the slopes of IC and GC over the reliable levels."""
    new_row = partial(measured_row, data=name, protocol=protocol)
    rows = [new_row("theorem2-rtil", value, coupling="ic", x=t) for t, value in ic.items()]
    for t, (value, reliable) in gc.items():
        rows.append(new_row("theorem2-rtil", value, coupling="gc-ideal", case="" if reliable else "not fitted", x=t))
    fitted = [t for t, (_, reliable) in gc.items() if reliable]
    if len(fitted) < 2:
        return rows
    slopes = log_slope(fitted, [ic[t] for t in fitted]), log_slope(fitted, [gc[t][0] for t in fitted])
    case = f"t from {fitted[0]:g} to {fitted[-1]:g}"
    for coupling, slope, truth in zip(("ic", "gc-ideal"), slopes, truths, strict=True):
        rows.append(new_row("theorem2", slope, coupling=coupling, case=case, truth=truth))
    return rows
