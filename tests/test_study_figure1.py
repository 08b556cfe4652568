"""Figure 1: its numbers against formulas and symmetry, its rows, its figure, and the experiment behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from theory_support import assert_refused

from harness import cli
from harness.config.experiments import expand
from harness.store import measurements
from harness.store.runs import Store
from harness.theory.gaussian import Gaussian, two_gaussians
from harness.theory.paths import pair_mean, passing, sample_paths
from harness.theory.studies import figure1
from harness.theory.studies.common import StudyContext, verdict


@pytest.fixture
def small(monkeypatch):
    """Few paths, and only the two Gaussians, whose flow is cheap."""
    for name, value in (("PATHS", 16), ("STEPS", 16), ("DRAWN", 4), ("DATA", ("two-gaussians",))):
        monkeypatch.setattr(figure1, name, value)


def lines(n: int, seed: int) -> np.ndarray:
    """Straight paths between random points, (5, n, 2)."""
    rng = np.random.default_rng(seed)
    start, end = rng.standard_normal((2, n, 2))
    return np.linspace(start, end, 5)


def test_the_mean_over_pairs_has_the_error_of_its_spread():
    crossings = [passing(lines(20, seed)) for seed in range(300)]
    shares = [pair_mean(pairs) for pairs in crossings]
    above = np.triu_indices(20, 1)
    assert [share.value for share in shares] == pytest.approx([pairs[above].mean() for pairs in crossings])
    assert np.mean([share.se for share in shares]) == pytest.approx(np.std([share.value for share in shares]), rel=0.25)


def test_distances_on_gaussian_data_are_a_formula():
    law = Gaussian(2, 0.5)
    x, z = (torch.randn(6, 2, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
    paths = sample_paths(law.denoise, x, z, figure1.T_MAX, 60)
    t = paths.times[:, None, None]
    start = (x + figure1.T_MAX * z).numpy()
    exact = np.sqrt((0.25 + t**2) / (0.25 + figure1.T_MAX**2)) * start
    expected = np.linalg.norm(x.numpy() + t * z.numpy() - exact, axis=2)
    np.testing.assert_allclose(figure1.distances(paths.ic, law.denoise).numpy(), expected, atol=5e-3)


def test_the_ends_of_ic_are_as_far_as_symmetry_says():
    """The flow keeps the sign of the second coordinate; so IC ends one unit away where its data point has the other sign."""
    law = two_gaussians()
    draws = torch.Generator().manual_seed(3)
    x = law.sample(200, draws)
    z = torch.randn(x.shape, generator=draws, dtype=torch.float64)
    other = ((x + figure1.T_MAX * z)[:, 1].sign() != x[:, 1].sign()).double().mean()
    paths = sample_paths(law.denoise, x, z, figure1.T_MAX, 24)
    apart = figure1.distances(paths.ic, law.denoise)[-1].mean()
    assert float(apart) == pytest.approx(float(other), abs=0.03) and 0.3 < float(other) < 0.6
    assert float(figure1.distances(paths.gc_line, law.denoise)[-1].mean()) < 0.02


def test_the_paper_s_statement_is_checked_without_any_run(small, tmp_path):
    parts = []
    context = StudyContext("toy", Store(tmp_path), progress=lambda *part: parts.append(part))
    rows = figure1.measure(context)
    assert {row.coupling for row in rows if row.quantity == "path"} == {"pf-ode", "ic", "gc-ideal"}
    assert [part[1:] for part in parts] == [(1, 1)] and "two-gaussians" in parts[0][0]
    checked = {row.quantity: verdict(row) for row in rows if row.case == "less IC's"}
    assert set(checked) == {"path-distance", "path-end", "path-crossing"}
    assert all(text.startswith("below 0") for text in checked.values()), checked
    share = {(row.coupling, row.case): row.value for row in rows if row.quantity == "path-crossing"}
    assert share["pf-ode", ""] == 0 and share["ic", ""] > 0.2 > 0.1 > share["gc-ideal", ""]
    straight = {(row.coupling, row.case): row.value for row in rows if row.quantity == "path-straightness"}
    assert straight["ic", ""] == pytest.approx(1) and straight["pf-ode", ""] < 0.999


def test_bad_input(small, tmp_path):
    with assert_refused(where="--t", found="(1.0,)"):
        figure1.measure(StudyContext("toy", Store(tmp_path), levels=(1.0,)))
    with assert_refused(where="figure1", found="eight-gaussians", expected="two-gaussians"):
        figure1.measure(StudyContext("toy", Store(tmp_path), expand("table1", "toy", [0])[:1]))


@pytest.mark.parametrize("scale", ["toy", "digits", "fashion", "paper"])
def test_the_experiment_is_the_same_at_every_scale(scale):
    runs = expand("figure1", scale)
    assert [run.id for run in runs] == [run.id for run in expand("figure1", "toy")]
    assert {run.data.name for run in runs} == {"two-gaussians", "two-moons"} and {run.scale for run in runs} == {"toy"}
    assert {(run.noise.sigma_min, run.noise.sigma_max, run.objective.n0, run.objective.n1, run.coupling.mu) for run in runs} == {
        (0.001, 5.0, 10, 100, 1.0)
    }


def test_from_the_command_line_at_another_scale(small, tmp_path, monkeypatch, capsys):
    """An experiment without runs is swept and measured; the numbers go to the toy scale, and the output says so."""
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    (tmp_path / "figure1.py").write_text('"""None."""\ndef runs(scale, seeds):\n    return []\n')
    assert cli.main(["sweep", "figure1", "--quiet"]) == 0
    assert cli.main(["measure", "figure1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "those of the toy scale" in printed and "below 0" in printed
    rows = measurements.read(tmp_path / "results", [])
    assert set(rows.scale) == {"toy"} and (rows.quantity == "path").sum() == 4 * (17 + 2 + 2)
    drawn = tmp_path / "results" / "figures" / "figure1-toy-two-gaussians"
    assert all(Path(f"{drawn}.{suffix}").stat().st_size for suffix in ("pdf", "csv"))
    assert np.asarray(Image.open(f"{drawn}.png").convert("L")).std() > 5
