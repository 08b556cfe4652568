"""Theorem 2: how fast Rtil_t falls with t, IC against GC with the ideal flow: slopes of ln Rtil against ln t with their intervals.

Gaussian data and mixtures by formulas and importance sampling, a finite data set by its oracle. On points of the plane a finite set is so
dense that no proposal meets a basin, so those data are represented by their law (mixture-of-8).
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from harness.theory.estimate import Estimate, Slope, log_slope
from harness.theory.gaussian import Gaussian
from harness.theory.oracle import draw_rows
from harness.theory.proxy import proxy_ic
from harness.theory.proxy_gc import IdealProxy, proxy_gc, proxy_gc_smooth
from harness.theory.studies.common import Row, Setting, row
from harness.theory.studies.theory_subjects import Subject, address, gaussians, mixtures

LEVELS = (8.0, 15.0, 25.0, 45.0, 80.0)
"""Of laws with a density."""
ROWS, PROPOSALS = 320, 64
FINITE = {5.0: 64, 7.5: 40, 11.0: 28, 16.0: 20, 22.0: 16, 30.0: 16}
"""t: proposals a row, on finite data. Below, a row has too few valid draws; above, ambiguous rows are too rare."""
FINITE_ROWS = 352
"""The same rows with the same noise at every t: few are ambiguous, and which ones depends little on t, so the slope knows less noise than
the points, whose errors the interval takes for independent."""
LEAST_DRAWS, MOST_EMPTY = 5.0, 0.05
"""Effective draws a row, and the share of rows without any, from and up to which a level is fitted."""
STEPS = 24
IC_ROWS = 8192


def known(setting: Setting) -> list[Row]:
    """theorem2 and theorem2-rtil rows of Gaussian data, whose slopes are known, and of mixtures."""
    made: list[Row] = []
    for name, law in (gaussians() | mixtures()).items():
        x = law.sample(8192, address(name, "slopes"))
        ic = [proxy_ic(law, x, t, address(name, "ic", t)) for t in LEVELS]
        gc = [_ideal(proxy_gc_smooth(law, ROWS, t, address(name, "gc", t), PROPOSALS), ROWS) for t in LEVELS]
        told = {"levels": LEVELS, "rows": ROWS, "proposals": PROPOSALS}
        truths = (None, None)
        if isinstance(law, Gaussian):
            truths = tuple(log_slope(LEVELS, [Estimate(exact(t), 0.0, 1) for t in LEVELS]).value for exact in (law.proxy_ic, law.proxy_gc))
        made += rows_of(name, LEVELS, ic, gc, told, truths)
    return made


def measure(setting: Setting, subject: Subject) -> list[Row]:
    """The same of a finite data set of images."""
    if not subject.data.is_images:
        return []
    total = len(subject.fast)
    levels, ic, gc = tuple(FINITE), [], []
    for t, proposals in FINITE.items():
        whole = total <= IC_ROWS
        x = subject.fast.data(None if whole else draw_rows(total, IC_ROWS, address(subject.name, "rows", t)))
        ic.append(proxy_ic(subject.fast, x, t, address(subject.name, "ic", t), whole=whole))
        chosen = draw_rows(total, FINITE_ROWS, address(subject.name, "gc rows"))
        gc.append(_ideal(proxy_gc(subject.fast, chosen, t, address(subject.name, "gc"), proposals, STEPS), FINITE_ROWS))
    return rows_of(subject.name, levels, ic, gc, {"rows": FINITE_ROWS, "proposals": {str(t): number for t, number in FINITE.items()}})


def _ideal(found: IdealProxy, rows: int) -> tuple[Estimate, bool]:
    return found.value, found.draws >= LEAST_DRAWS and found.empty <= MOST_EMPTY * rows


def rows_of(
    name: str,
    levels: Sequence[float],
    ic: Sequence[Estimate],
    gc: Sequence[tuple[Estimate, bool]],
    told: dict,
    truths: tuple[float | None, float | None] = (None, None),
) -> list[Row]:
    """The points, those of GC that are no more than rough marked, and the slopes of both over the levels where GC's are sound."""
    made = [row("theorem2-rtil", name, found, coupling="ic", x=t, protocol=told) for t, found in zip(levels, ic, strict=True)]
    for t, (found, sound) in zip(levels, gc, strict=True):
        made.append(row("theorem2-rtil", name, found, coupling="gc-ideal", case="" if sound else "not fitted", x=t, protocol=told))
    fitted = [i for i, (_, sound) in enumerate(gc) if sound]
    if len(fitted) < 2:
        return made
    t = [levels[i] for i in fitted]
    slopes = log_slope(t, [ic[i] for i in fitted]), log_slope(t, [gc[i][0] for i in fitted])
    for coupling, slope, truth in zip(("ic", "gc-ideal"), slopes, truths, strict=True):
        case = f"t from {t[0]:g} to {t[-1]:g}"
        made.append(row("theorem2", name, as_estimate(slope), coupling=coupling, case=case, truth=truth, protocol=told))
    return made


def as_estimate(slope: Slope) -> Estimate:
    """A slope whose 95 % interval is read as +-1.96 errors."""
    return Estimate(slope.value, (slope.high - slope.low) / (2 * float(stats.norm.ppf(0.975))), slope.n)
