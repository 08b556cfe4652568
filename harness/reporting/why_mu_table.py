"""The tables of `why_mu`: the mu that each criterion prefers, what explains the quality, the closed form's predictions, endpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from harness.config import presets
from harness.reporting import paper_values
from harness.reporting.tables import MISSING, CellText, Lines, Table, signed
from harness.reporting.why_mu import BETWEEN, BIAS, GRADIENT, QUALITY, RATIO, RELATIVE, SPREAD, UNEVEN, Models
from harness.stats.differences import Difference, paired
from harness.stats.intervals import Interval, interval
from harness.stats.optimum import Lowest, mean_correlation, rank_correlation

ENDPOINT_MU = (0.5, 0.9, 1.0)
"""mu whose endpoints are followed over training, those of Figure 7's question."""


class Fit(StrEnum):
    """How a prediction compares with what was measured."""

    RIGHT = "right"
    """The predicted value lies within the interval."""
    DIRECTION = "right in direction"
    """Only the direction can be compared, and it is as predicted."""
    SIZE = "wrong in size"
    """The predicted value lies outside the interval, which does not lie on the other side of the neutral value."""
    WRONG = "wrong in direction"
    OPEN = "open"
    """No interval, or one that contains both the prediction's side and the other."""


@dataclass(frozen=True)
class Prediction:
    """A value of the closed form on one grid beside the measured one. neutral: the value that separates the two directions.

    only_direction: the sizes cannot be compared. A rank correlation with mu is -1 or 1 in closed form and lies nearer to 0 as soon as there
    is noise.
    """

    what: str
    n: int
    theory: float
    measured: Interval
    neutral: float
    only_direction: bool = False

    @property
    def fit(self) -> Fit:
        low, high = self.measured.low, self.measured.high
        if low is None or high is None:
            return Fit.OPEN
        same_side, undirected = (self.theory > self.neutral) == (low > self.neutral), low <= self.neutral <= high
        if self.only_direction:
            return Fit.OPEN if undirected else Fit.DIRECTION if same_side else Fit.WRONG
        if low <= self.theory <= high:
            return Fit.RIGHT
        if undirected:
            return Fit.OPEN if math.isclose(self.theory, self.neutral, rel_tol=0.02) else Fit.SIZE
        return Fit.SIZE if same_side else Fit.WRONG

    def text(self) -> str:
        """Prediction and measurement in one phrase."""
        return f"N = {self.n}: predicted {_number(self.theory)}, measured {_with_interval(self.measured)}"


def table(models: Models, scale: str) -> Table:
    """The table of one data set with its notes, and the tables of predictions and of endpoints below it."""
    grids = [f"N = {n}" for n in models.grids]
    headers = ("lower is better", *(f"preferred mu, {grid}" for grid in grids), "rank correlation, over mu", "over mu and N")
    rows: list[tuple[CellText, ...]] = []
    data: list[dict[str, object]] = []
    for criterion in models.criteria:
        best = [models.preferred(criterion, n) for n in models.grids]
        within, across = (None, None) if criterion == QUALITY else (models.correlation(criterion, flag) for flag in (False, True))
        rows.append((models.title(criterion), *map(_preferred, best), _interval_cell(within), _interval_cell(across)))
        data += [_csv(criterion, n, lowest) for n, lowest in zip(models.grids, best, strict=True)]
        data += [
            {"criterion": criterion, "what": what, "value": value.mean, "low": value.low, "high": value.high, "seeds": value.n}
            for what, value in (("rank correlation over mu", within), ("rank correlation over mu and N", across))
            if value
        ]
        theory = [models.closed_form_prefers(criterion, n) for n in models.grids]
        if any(value is not None for value in theory):
            rows.append(("   in closed form", *(MISSING if value is None else f"{value:g}" for value in theory), "", ""))
            data += [
                {"criterion": criterion, "what": "preferred mu in closed form", "n": n, "value": value}
                for n, value in zip(models.grids, theory, strict=True)
            ]
    name = paper_values.data_name(models.data)
    title = f"Why mu: {name}, {scale} scale: the mu that each criterion prefers, and whether it explains {models.quality}"
    main_data = presets.scale(scale).table1[:1] == (models.data,)
    suffix = f"-{scale}" if main_data else f"-{scale}-{models.data}"
    predictions = predicted(models)
    more = (prediction_table(models, predictions, f"why-mu-theory{suffix}"), *_endpoint_tables(models, f"why-mu-endpoints{suffix}"))
    numbers = pd.concat([pd.DataFrame(data), *(other.data for other in more)], ignore_index=True)
    notes = (*_methods(models), *explanations(models), *verdicts_on_theory(models, predictions))
    return Table(f"why-mu{suffix}", title, headers, tuple(rows), notes, data=numbers, more=more)


def _csv(criterion: str, n: int, best: Lowest | None) -> dict[str, object]:
    numbers = {} if best is None else {"value": best.best, "low": best.low, "high": best.high, "seeds": best.n, "method": best.method}
    return {"criterion": criterion, "what": "preferred mu", "n": n, **numbers}


def _preferred(best: Lowest | None) -> CellText:
    if best is None:
        return MISSING
    return Lines(f"{best.best:g}", "one seed" if best.low is None else f"[{best.low:g}, {best.high:g}], n = {best.n}")


def _interval_cell(value: Interval | None) -> CellText:
    if value is None:
        return ""
    mean = signed(value.mean, ".2f")
    if value.low is None or value.high is None:
        return Lines(mean, "one seed")
    return Lines(mean, f"[{signed(value.low, '.2f')}, {signed(value.high, '.2f')}], n = {value.n}")


def _methods(models: Models) -> list[str]:
    """How the numbers of the table came about."""
    measured = []
    for n in models.grids:
        by_mu = models.by_mu(GRADIENT, n)
        if counts := sorted({len(values) for values in by_mu.values()}):
            seeds = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
            measured.append(f"N = {n}: {len(by_mu)} mu from {min(by_mu):g} to {max(by_mu):g}, training seeds: {seeds}")
    return [
        f"measured: {'; '.join(measured)}",
        "n: number of training seeds. N: intervals of the last grid. Preferred mu: the lowest mean over the seeds that all mu have; in "
        "brackets, from the lowest to the highest mu that cannot be told from it at 95 % (Hsu's confidence set, error pooled over mu)",
        f"rank correlation with {models.quality} (Spearman), of each seed, then mean and 95 % interval over the seeds. Over mu: within "
        "each N, then averaged. Over mu and N: of all models; the variance of the gradient then counts relative to mu = 0, since the "
        "loss has other weights on each grid",
        "closed form: a linear function on Gaussian data of the same dimension and mean variance, with the same levels, their law and "
        "weights; squared distance, trained to its fixed point",
        *(
            ["W2 of samples exceeds that of the ideal flow's by at most sqrt(d bias), so that bias and W2 are close by construction"]
            if models.metric == "w2"
            else []
        ),
    ]


def explanations(models: Models) -> list[str]:
    """Whether each criterion explains the quality's optimum, in plain words, and the answer for bias and variance together."""
    if QUALITY not in models.criteria:
        return [f"no {models.quality} of these runs is on record, so that nothing can be said about its optimum"]
    texts, reasons = [], {}
    for criterion in models.criteria[1:]:
        within = models.correlation(criterion, across=False)
        if within is None:
            continue
        apart = [n for n in models.grids if _apart(models.preferred(criterion, n), models.preferred(QUALITY, n))]
        reasons[criterion] = _explains(within, apart)
        where = f"; the two prefer different mu at N = {', '.join(map(str, apart))}" if apart else ""
        texts.append(
            f"{models.title(criterion)} {reasons[criterion]} the optimum of {models.quality}: {_with_interval(within, '+.2f')}{where}"
        )
    causes = {BIAS: "bias", GRADIENT: "variance"}
    answers = {causes[name]: answer for name, answer in reasons.items() if name in causes}
    explained = [name for name, answer in answers.items() if answer == EXPLAINS]
    undecided = [name for name, answer in answers.items() if answer == OPEN]
    optimum = f"the optimum of {models.quality} over mu"
    if explained:
        texts.append(f"{optimum} is explained by {' and by '.join(explained)}")
    elif undecided:
        texts.append(f"whether {optimum} is explained by {' or by '.join(undecided)} is undecided")
    elif answers:
        texts.append(f"{optimum} is explained by neither bias nor variance")
    return texts


EXPLAINS, OPPOSES, OPEN = "explains", "does not explain", "is not shown to explain"


def _explains(within: Interval, apart: Sequence[int]) -> str:
    """A criterion explains the optimum if both fall and rise together over mu, and prefer values of mu that no grid separates."""
    if within.low is None or within.high is None:
        return OPEN
    if within.high <= 0 or (within.low > 0 and apart):
        return OPPOSES
    return EXPLAINS if within.low > 0 else OPEN


def _apart(left: Lowest | None, right: Lowest | None) -> bool:
    """Whether two preferred mu differ beyond their confidence sets."""
    return bool(left and right and left.candidates and right.candidates and not set(left.candidates) & set(right.candidates))


def predicted(models: Models) -> list[Prediction]:
    """Every value of the closed form that was also measured, grid by grid."""
    wanted = [
        ("spread at mu = 0", SPREAD, 0.0, 1.0),
        ("spread at mu = 0.5", SPREAD, 0.5, 1.0),
        ("spread at mu = 1", SPREAD, 1.0, 1.0),
        ("variance of the gradient at mu = 0.5 over mu = 0", RELATIVE, 0.5, 1.0),
        ("variance of the gradient at mu = 1 over mu = 0", RELATIVE, 1.0, 1.0),
        ("variance over GC rows by IC rows, same weights, mu = 0.5", RATIO, 0.5, 1.0),
    ]
    predictions = []
    for what, criterion, mu, neutral in wanted:
        for n in models.grids:
            theory, measured = models.closed_form(criterion, n).get(mu), models.at(criterion, n, mu, (0.0, None))
            if theory is not None and measured is not None:
                predictions.append(Prediction(what, n, theory, measured, neutral))
    for n in models.grids:
        for what, criterion in (
            ("rank correlation of spread and mu", SPREAD),
            ("rank correlation of the gradient's variance and mu", GRADIENT),
        ):
            theory_curve, by_mu = models.closed_form(criterion, n), models.by_mu(criterion, n)
            theory = rank_correlation(list(theory_curve), list(theory_curve.values()))
            points = {seed: [(mu, values[seed]) for mu, values in by_mu.items() if seed in values] for seed in models.seeds()}
            measured = mean_correlation({seed: [([mu for mu, _ in known], [y for _, y in known])] for seed, known in points.items()})
            if theory is not None and measured is not None:
                predictions.append(Prediction(what, n, theory, measured, 0.0, only_direction=True))
    predictions += _between(models)
    return predictions


def _between(models: Models) -> list[Prediction]:
    """The share of the part between the two populations in the variance at mu = 0.5."""
    predictions = []
    for n in models.grids:
        closed = [models.closed_form(criterion, n).get(0.5) for criterion in (BETWEEN, GRADIENT)]
        measured = [models.by_mu(criterion, n).get(0.5, {}) for criterion in (BETWEEN, GRADIENT)]
        shares = [measured[0][seed] / measured[1][seed] for seed in measured[0] if seed in measured[1]]
        if None not in closed and shares:
            theory = float(closed[0] or 0.0) / float(closed[1] or math.nan)
            predictions.append(Prediction("share between IC and GC rows in that variance, mu = 0.5", n, theory, interval(shares), 0.0))
    return predictions


def prediction_table(models: Models, predictions: Sequence[Prediction], name: str) -> Table:
    """What the closed form predicts, grid by grid, beside what was measured."""
    rows: list[tuple[CellText, ...]] = []
    for what in dict.fromkeys(prediction.what for prediction in predictions):
        by_grid = {prediction.n: prediction for prediction in predictions if prediction.what == what}
        cells = [_prediction_cell(by_grid[n]) if n in by_grid else MISSING for n in models.grids]
        rows.append((what, *cells))
    data = pd.DataFrame(
        [
            {"what": p.what, "n": p.n, "closed_form": p.theory, "value": p.measured.mean, "low": p.measured.low, "high": p.measured.high,
             "seeds": p.measured.n, "fit": str(p.fit)}
            for p in predictions
        ]
    )  # fmt: skip
    notes = (
        "measured: mean over training seeds, [95 % interval]; spread: standard deviation of what is generated over that of the ideal flow",
    )
    headers = ("measured, and in closed form", *(f"N = {n}" for n in models.grids))
    return Table(name, "What the closed form of joint learning predicts", headers, tuple(rows), notes, data=data)


def _prediction_cell(prediction: Prediction) -> CellText:
    return Lines(_with_interval(prediction.measured), f"closed form {_number(prediction.theory)}: {prediction.fit}")


def verdicts_on_theory(models: Models, predictions: Sequence[Prediction]) -> list[str]:
    """What the closed form predicts wrongly, and what rightly, in plain words."""
    texts = _too_narrow(models, predictions)
    compared = sum(p.fit is not Fit.OPEN for p in predictions)
    for fit, words in ((Fit.WRONG, "is wrong in direction about"), (Fit.SIZE, "is wrong in size, outside the interval, about")):
        if wrong := [f"{p.what} ({p.text()})" for p in predictions if p.fit is fit]:
            texts.append(f"the closed form {words}: {'; '.join(wrong)} ({len(wrong)} of {compared} comparisons, each at 95 %)")
    for fit, words in ((Fit.RIGHT, "is right within the interval"), (Fit.DIRECTION, "is right in direction")):
        if right := [f"{p.what}, N = {p.n}" for p in predictions if p.fit is fit]:
            texts.append(f"the closed form {words}: {'; '.join(right)}")
    for criterion in (UNEVEN, GRADIENT):
        best = {n: models.preferred(criterion, n) for n in models.grids}
        misses = [
            f"N = {n}: predicted {theory:g}, measured {lowest.best:g} [{lowest.low:g}, {lowest.high:g}]"
            for n, lowest in best.items()
            if lowest and lowest.low is not None and lowest.high is not None
            if (theory := models.closed_form_prefers(criterion, n)) is not None and not lowest.low <= theory <= lowest.high
        ]
        if misses:
            texts.append(f"the closed form is wrong about the mu with the lowest {models.title(criterion)}: {'; '.join(misses)}")
    return texts


def _too_narrow(models: Models, predictions: Sequence[Prediction]) -> list[str]:
    """What it means for mu that models of mu = 0 generate a narrower distribution than predicted; empty where they do not."""
    narrower = [p.n for p in predictions if p.what == "spread at mu = 0" and p.measured.high is not None and p.measured.high < p.theory]
    best = {n: (models.preferred(UNEVEN, n), models.closed_form_prefers(UNEVEN, n)) for n in narrower}
    pairs = [f"N = {n}: {own.best:g}, closed form {theory:g}" for n, (own, theory) in best.items() if own and theory is not None]
    if not pairs:
        return []
    grids = ", ".join(map(str, narrower))
    return [
        f"at N = {grids}, IC generates a narrower distribution than the closed form says; "
        f"the mu at which the spread is nearest to the data's: {'; '.join(pairs)}"
    ]


def _endpoint_tables(models: Models, name: str) -> tuple[Table, ...]:
    """Figure 7's question on the finest grid: do endpoints on IC points get worse towards the end of training, and do the samples?"""
    n = models.grids[-1]
    rows: list[tuple[CellText, ...]] = []
    data = []
    for mu in ENDPOINT_MU:
        changes = {what: rise(models.curves(metric, n, mu)) for what, metric in endpoint_metrics(models).items()}
        if all(change is None for change in changes.values()):
            continue
        rows.append((f"mu = {mu:g}", *(_rise_cell(change) for change in changes.values())))
        data += [
            {
                "what": f"change of ln at the end of training, {what}",
                "mu": mu,
                "n": n,
                "value": c.mean,
                "low": c.low,
                "high": c.high,
                "p": c.p,
                "seeds": c.n,
            }
            for what, c in changes.items()
            if c is not None
        ]
    if not rows:
        return ()
    title = f"Does the predictor's error feed on itself? {models.quality} in the last quarter of training against the middle half, N = {n}"
    notes = (
        "change of the geometric mean and its 95 % interval, paired over training seeds (t test of logarithms); both parts of training are "
        "fixed beforehand, since the lowest point of a curve lies below its end even where only noise makes it rise",
    )
    return (Table(name, title, ("", *endpoint_metrics(models)), tuple(rows), notes, data=pd.DataFrame(data)),)


def endpoint_metrics(models: Models) -> dict[str, str]:
    """The two curves that are compared, by their title."""
    return {"endpoints on IC points": f"endpoint_{models.metric}", "samples": models.metric}


def rise(curves: pd.DataFrame) -> Difference | None:
    """Mean ln of a metric over the last quarter of training less that over the middle half, paired over seeds; None without such values.

    curves: by step (rows) and seed (columns). The parts are fixed beforehand: the lowest point of a curve is chosen by its value, and so
    lies below the end even where the true curve is flat.
    """
    if curves.empty or (curves <= 0).any(axis=None):
        return None
    logs, last = curves.map(math.log), curves.index.max()
    middle, end = logs[(logs.index > last / 4) & (logs.index <= 0.75 * last)], logs[logs.index > 0.75 * last]
    return None if middle.empty else paired(*(part.mean().to_dict() for part in (end, middle)))


def _rise_cell(change: Difference | None) -> CellText:
    if change is None:
        return MISSING
    mean = signed(math.expm1(change.mean), ".0%")
    if change.low is None or change.high is None:
        return Lines(mean, f"n = {change.n}: no interval")
    words = "worse at the end" if change.low > 0 else "not worse at the end" if change.high <= 0 else "undecided"
    return Lines(mean, f"[{signed(math.expm1(change.low), '.0%')}, {signed(math.expm1(change.high), '.0%')}], n = {change.n}\n{words}")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _with_interval(value: Interval, digits: str = ".3g") -> str:
    """Mean and interval."""
    if value.low is None or value.high is None:
        return f"{value.mean:{digits}} ({value.n} seed{'s' * (value.n > 1)})"
    return f"{value.mean:{digits}} [{value.low:{digits}}, {value.high:{digits}}]"
