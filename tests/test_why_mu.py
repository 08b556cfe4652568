"""The tables of `why_mu` on invented measurements whose answers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.reporting import tables, why_mu
from harness.reporting.figures_why_mu import why_mu_figures
from harness.reporting.load import LoadedResults
from harness.reporting.why_mu import BIAS, GRADIENT, QUALITY, UNEVEN
from harness.reporting.why_mu_table import Fit, Prediction, explanations, predicted, rise, table, verdicts_on_theory
from harness.stats.intervals import Interval
from harness.store.measurements import COLUMNS, MeasurementRow, case_of_grid

MU = [round(0.1 * i, 1) for i in range(11)]


@dataclass
class Records:
    """Final values and curves by run id, in place of CellValues."""

    finals: dict[str, float]
    curves: dict[tuple[str, str], pd.Series]
    loaded: LoadedResults

    def final(self, run, metric):
        return SimpleNamespace(value=self.finals[run], protocol="p") if run in self.finals else None

    def curve(self, run, metric):
        return self.curves.get((run, metric), pd.Series(dtype=float))


def invented(tmp_path, seeds=(0, 1, 2), best=None, quality=None, spread=lambda mu, n: 0.8 + 0.4 * mu, noise=0.02, endpoint=0.0):
    """Models at three grids. best: the mu with the lowest bias by n; quality: ln of the metric from (mu, n), that of the bias if None."""
    rng, best = np.random.default_rng(0), best or {10: 0.9, 40: 0.5, 160: 0.2}

    def bias(mu, n):
        return (mu - best[n]) ** 2

    rows, finals, curves = [], {}, {}
    steps = np.arange(100, 1001, 100)
    for n in best:
        for mu in MU:
            for kind, value in (
                ("spread", 1.1 + 0.1 * mu),
                ("bias", (mu - 0.05) ** 2 + 1e-4),
                ("gradient", 100 * n * (1 - 0.3 * mu)),
                ("gradient-ratio", 0.6),
            ):
                rows.append(MeasurementRow(f"mu-{kind}", "eight-gaussians", value, "closed-form", x=mu, case=case_of_grid(n)))
            for seed in seeds:
                run, jitter = f"eight-gaussians-gc-{mu:g}-s{seed}-{n}", rng.normal(0, noise, 6)
                values = {"bias": math.exp(bias(mu, n) + jitter[0]), "spread": spread(mu, n) * math.exp(jitter[1] / 10)}
                values |= {"gradient": 100 * n * math.exp(-mu + jitter[2]), "gradient-ratio": 1.3 * math.exp(jitter[3])}
                values |= {"discrepancy": math.exp(jitter[4])}
                rows += [
                    MeasurementRow(
                        f"mu-{kind}", "eight-gaussians", value, f"gc-{mu:g}", x=mu, case=case_of_grid(n), run=run, seed=seed, se=0.01
                    )
                    for kind, value in values.items()
                ]
                finals[run] = math.exp((quality or bias)(mu, n) + jitter[5])
                shape = np.exp(-steps / 200) + 0.1 * np.exp(endpoint * np.maximum(0, steps - 500) / 500) * np.exp(rng.normal(0, noise, 10))
                curves[run, "endpoint_w2"], curves[run, "w2"] = (pd.Series(shape + extra, steps) for extra in (0, 0.01))
    frame = pd.DataFrame([vars(row) for row in rows]).assign(scale="toy").reindex(columns=list(COLUMNS))
    (models,) = why_mu.models(frame, Records(finals, curves, LoadedResults(tmp_path)))
    return models


def test_the_preferred_mu_of_each_grid(tmp_path):
    models = invented(tmp_path)
    for criterion in (BIAS, QUALITY):
        for n, expected in ((10, 0.9), (40, 0.5), (160, 0.2)):
            best = models.preferred(criterion, n)
            assert abs(best.best - expected) <= 0.11 and best.low <= expected <= best.high and best.n == 3
            assert best.high - best.low < 0.6
    assert [models.preferred(GRADIENT, n).best for n in models.grids] == [1.0, 1.0, 1.0]
    assert abs(models.preferred(UNEVEN, 10).best - 0.5) < 0.11
    assert [models.closed_form_prefers(criterion, 40) for criterion in (BIAS, GRADIENT, UNEVEN)] == [pytest.approx(0.0, abs=0.11), 1.0, 0.0]


def test_a_quality_that_follows_the_bias_is_explained_by_it(tmp_path):
    models = invented(tmp_path)
    assert models.correlation(BIAS, across=False).low > 0.8 > models.correlation(GRADIENT, across=False).high
    answer = explanations(models)[-1]
    assert "explained by bias" in answer and "variance" not in answer and "neither" not in answer


def test_a_quality_that_follows_the_variance_is_explained_by_it(tmp_path):
    answer = explanations(invented(tmp_path, quality=lambda mu, n: -mu))[-1]
    assert "explained by variance" in answer and "bias" not in answer


def test_a_quality_that_follows_neither(tmp_path):
    answer = explanations(invented(tmp_path, quality=lambda mu, n: mu, best={10: 0.9, 40: 0.9, 160: 0.9}))[-1]
    assert "neither bias nor variance" in answer


def test_without_dependence_on_mu_nothing_is_decided(tmp_path):
    assert "undecided" in explanations(invented(tmp_path, quality=lambda mu, n: 0.0, noise=0.3))[-1]


def test_one_seed_decides_nothing_and_has_no_interval(tmp_path):
    models = invented(tmp_path, seeds=(0,))
    assert "undecided" in explanations(models)[-1]
    assert {prediction.fit for prediction in predicted(models)} == {Fit.OPEN}
    assert not verdicts_on_theory(models, predicted(models))
    best = [row for row in table(models, "toy").data.to_dict("records") if row["what"] == "preferred mu"]
    assert all(math.isnan(row["low"]) and row["seeds"] == 1 for row in best)


def test_what_the_closed_form_predicts_wrongly_is_said_with_its_numbers(tmp_path):
    models = invented(tmp_path)
    fits = {(p.what, p.n): p.fit for p in predicted(models)}
    assert fits["spread at mu = 0", 40] is Fit.WRONG  # 1.1 predicted, 0.8 measured
    assert fits["spread at mu = 1", 40] is Fit.RIGHT  # 1.2 both
    assert fits["variance of the gradient at mu = 1 over mu = 0", 40] is Fit.SIZE  # 0.7 predicted, 0.37 measured
    assert fits["variance over GC rows by IC rows, same weights, mu = 0.5", 10] is Fit.WRONG  # 0.6 predicted, 1.3 measured
    assert fits["rank correlation of spread and mu", 160] is Fit.DIRECTION
    (wrong,) = [text for text in verdicts_on_theory(models, predicted(models)) if "wrong in direction" in text]
    (narrow,) = [text for text in verdicts_on_theory(models, predicted(models)) if "narrower" in text]
    assert "0.5, closed form 0" in narrow and all(str(n) in narrow for n in models.grids)
    assert "spread at mu = 0 " in wrong and "1.1" in wrong and "0.8" in wrong and "rank correlation of spread" not in wrong


@pytest.mark.parametrize(
    ("theory", "low", "high", "fit"),
    [
        (1.2, 1.1, 1.3, Fit.RIGHT),
        (1.2, 1.3, 1.4, Fit.SIZE),
        (1.2, 0.7, 0.9, Fit.WRONG),
        (1.2, 0.9, 1.1, Fit.SIZE),
        (0.8, 1.1, 1.2, Fit.WRONG),
        (0.8, 0.5, 0.6, Fit.SIZE),
        (0.8, None, None, Fit.OPEN),
    ],
)
def test_the_fit_of_a_prediction(theory, low, high, fit):
    assert Prediction("spread", 10, theory, Interval(1.0, low, high, 3, ""), 1.0).fit is fit


@pytest.mark.parametrize(("low", "high", "fit"), [(-0.99, -0.8, Fit.DIRECTION), (-0.5, 0.1, Fit.OPEN), (0.2, 0.9, Fit.WRONG)])
def test_noise_alone_does_not_make_a_perfect_rank_correlation_wrong(low, high, fit):
    assert Prediction("rank correlation", 10, -1.0, Interval((low + high) / 2, low, high, 3, ""), 0.0, only_direction=True).fit is fit


def test_endpoints_that_get_worse_are_recognised():
    steps = range(100, 1001, 100)
    falling = pd.DataFrame({seed: [2 - step / 1000 + 0.001 * seed for step in steps] for seed in range(3)}, index=steps)
    rising = pd.DataFrame({seed: [abs(step - 500) / 500 + 0.2 + 0.001 * seed for step in steps] for seed in range(3)}, index=steps)
    assert rise(falling).high < 0 < rise(rising).low and rise(rising).n == 3
    assert rise(rising[[0]]).low is None and rise(pd.DataFrame()) is None and rise(falling - 5) is None
    middle = np.log([abs(step - 500) / 500 + 0.2 for step in (300, 400, 500, 600, 700)]).mean()
    end = np.log([abs(step - 500) / 500 + 0.2 for step in (800, 900, 1000)]).mean()
    assert rise(rising[[0]]).mean == pytest.approx(end - middle)


def test_a_rise_of_noise_alone_is_rarely_found():
    rng = np.random.default_rng(0)
    rises = [rise(pd.DataFrame(np.exp(rng.normal(0, 0.1, (10, 3))), index=range(100, 1001, 100))) for _ in range(300)]
    assert np.mean([each.p < 0.05 for each in rises]) < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5


def test_the_tables_are_written_and_the_figures_show_every_part(tmp_path):
    models = invented(tmp_path, endpoint=2.0)
    result = table(models, "toy")
    assert [row[0] for row in result.rows][:3] == ["W2", "bias E|f - f_ideal|^2 / d", "   in closed form"]
    assert len(result.headers) == 1 + 3 + 2 and all(len(row) == len(result.headers) for row in result.rows)
    endpoints = result.more[1].data
    assert set(endpoints["mu"]) == {0.5, 0.9, 1.0} and (endpoints[endpoints["what"].str.contains("endpoints")].low > 0).all()
    assert result.name == "why-mu-toy" and {"preferred mu", *endpoints["what"], *result.more[0].data["what"]} <= set(result.data["what"])
    assert all(path.stat().st_size for path in tables.write(result, tmp_path))
    figures = {figure.name: figure for figure in why_mu_figures([models], "toy")}
    assert set(figures) == {"why-mu-toy", "why-mu-parts-toy", "why-mu-endpoints-toy"}
    main = figures["why-mu-toy"].data
    assert {*main["of"]} == {"bias", "bias, closed form", "relative-gradient", "relative-gradient, closed form", "quality"}
    quality = main[(main["of"] == "quality") & (main["N"] == 40)].set_index("mu")
    assert quality.value[0.5] == pytest.approx(np.mean(list(models.by_mu(QUALITY, 40)[0.5].values()))) and (quality.n == 3).all()


def test_damaged_rows_are_left_out_and_named(tmp_path):
    good = MeasurementRow("mu-spread", "eight-gaussians", 0.9, "gc-0.5", x=0.5, case="N=10", run="r", seed=0)
    bad = [
        replace(good, **change) for change in ({"case": "alpha = 1"}, {"x": 1.5}, {"x": None}, {"value": -1.0}, {"seed": None}, {"run": ""})
    ]
    frame = pd.DataFrame([vars(row) for row in (good, *bad)]).assign(scale="toy").reindex(columns=list(COLUMNS))
    records = Records({}, {}, LoadedResults(tmp_path))
    (models,) = why_mu.models(frame, records)
    assert models.by_mu("spread", 10) == {0.5: {0: 0.9}}
    assert any(text.startswith("6 ") for text in records.loaded.damage)
    assert table(models, "toy").rows and explanations(models)[0].startswith("no W2")


def test_no_measurements_give_no_models(tmp_path):
    empty = pd.DataFrame(columns=list(COLUMNS))
    assert why_mu.models(empty, Records({}, {}, LoadedResults(tmp_path))) == []
