"""Figures: the numbers behind them, one look per coupling, colours that colour-blind readers can tell apart, complete files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image
from report_support import make_results, make_run, records, row_of, table

from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.data.examples import real_rows
from harness.errors import HarnessError
from harness.reporting import drawing, figures, figures_ablations, figures_measured, heading, noise, style
from harness.reporting import load as reader
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.heading import Subject
from harness.reporting.values import CellValues
from harness.stats.intervals import Interval
from harness.stats.measured import measured_mean
from harness.store import measurements
from harness.store.measurements import MeasurementRow

DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])  # Machado et al. 2009, severity 1
PROTANOPIA = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, style.Figure]]:
    root = tmp_path_factory.mktemp("results")
    make_results(root, "sweep_mu", "digits", [0, 1])
    make_results(root, "table1", "toy", [0])
    loaded = reader.read(root)
    cell_values = CellValues(loaded)
    by_name = {figure.name: figure for scale in loaded.scales for figure in figures.training_figures(all_cells(scale, loaded), cell_values)}
    for figure in by_name.values():
        drawing.save(figure, root / "figures")
    return root / "figures", by_name


def test_what_the_runs_allow_is_drawn(drawn):
    folder, by_name = drawn
    common = {"convergence", "transport-training", "figure8"}
    assert set(by_name) == {f"{name}-toy" for name in common} | {f"{name}-digits" for name in common | {"figure5", "mu"}}
    for name in by_name:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert np.asarray(Image.open(folder / f"{name}.png").convert("L")).std() > 5


def test_curves_are_vectors(drawn):
    folder, _ = drawn
    assert b"/Subtype /Image" not in (folder / "figure5-digits.pdf").read_bytes()
    assert b"/Subtype /Image" in (folder / "figure8-digits.pdf").read_bytes()


def test_the_csv_beside_a_figure_holds_its_numbers(drawn):
    folder, _ = drawn
    rows = pd.read_csv(folder / "convergence-digits.csv")
    run = next(run for run in expand("sweep_mu", "digits", [1]) if run.slug == "digits-ot-s1")
    mine = rows[rows.run == run.id]
    expected = [(row["step"], row["value"]) for row in records(run) if row["metric"] == "fid" and not row["final"]]
    assert np.stack([mine.step, mine.value], 1) == pytest.approx(np.array(expected))
    mean = rows[(rows.key == "ot") & (rows.seed == "mean")].set_index("step").value
    seeds = rows[(rows.key == "ot") & (rows.seed != "mean")].groupby("step").value.mean()
    assert mean.to_numpy() == pytest.approx(seeds.to_numpy())


def test_tooltips_lie_on_the_picture_and_name_run_step_and_value(drawn):
    figure = drawn[1]["convergence-digits"]
    points = figure.fractions()
    assert len(points) == len(figure.points)
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in points)
    left = min(points)
    assert "seed" in left[2]
    assert "step" in left[2]
    text = next(text for _, _, text in points if "iCT-IC, seed 0" in text)
    assert "digits-ic-s0-" in text


def test_tooltips_are_where_the_lines_are(drawn):
    """The pixels around the point of a seed's value have ink."""
    folder, by_name = drawn
    picture = np.asarray(Image.open(folder / "mu-digits.png").convert("L"))
    height, width = picture.shape
    for x, y, _ in by_name["mu-digits"].fractions():
        row, column = round(y * (height - 1)), round(x * (width - 1))
        assert picture[max(0, row - 6) : row + 7, max(0, column - 6) : column + 7].min() < 200


def test_redrawing_gives_the_same_bytes(drawn, tmp_path):
    folder, by_name = drawn
    for name in ("figure5-digits", "mu-digits"):
        drawing.save(by_name[name], tmp_path)
        for suffix in ("pdf", "png", "csv"):
            assert (tmp_path / f"{name}.{suffix}").read_bytes() == (folder / f"{name}.{suffix}").read_bytes()
    assert drawing.svg(by_name["mu-digits"]) == drawing.svg(by_name["mu-digits"])


def test_two_processes_draw_what_one_draws(drawn, tmp_path, monkeypatch):
    figures_ = list(drawn[1].values())[: drawing.FEW + 1]
    monkeypatch.setattr(drawing, "_can_fork", lambda: False)
    alone = drawing.draw_all(figures_, tmp_path / "alone")
    monkeypatch.setattr(drawing, "_can_fork", lambda: True)
    assert drawing.draw_all(figures_, tmp_path / "two") == alone
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert len(files) == 3 * len(figures_)
    assert all((tmp_path / "two" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in files)


def test_what_a_second_process_cannot_write_is_raised(drawn, tmp_path, monkeypatch):
    figures_ = list(drawn[1].values())[: drawing.FEW + 1]
    monkeypatch.setattr(drawing, "_can_fork", lambda: True)
    blocked = tmp_path / f"{figures_[1].name}.pdf"
    blocked.mkdir()
    with pytest.raises(HarnessError, match=re.escape(str(blocked))):
        drawing.draw_all(figures_, tmp_path)


def test_a_coupling_looks_the_same_in_every_figure():
    many = style.looks(["ot", "gc-0.5", "ic", "gc-1"])
    few = style.looks(["ic", "gc-0.5"])
    assert few["ic"] == many["ic"]
    assert few["gc-0.5"] == many["gc-0.5"]
    variants = style.looks(["gc-0.5", "gc-0.5 train.lr=0.1", "gc-0.5-online", "ect-gc-0.5", "ot-2048", "ot"])
    assert {variants[name].color for name in ("gc-0.5", "gc-0.5 train.lr=0.1", "ect-gc-0.5")} == {many["gc-0.5"].color}
    assert variants["gc-0.5-online"].color != many["gc-0.5"].color, "another predictor is another coupling"
    variants_of = (f"gc-0.5-{name}" for name in ("online", "fresh-noise", "shuffled", "batch-ot", "reflow"))
    mechanism = style.looks(["ic", "ot", "gc-0.5", *variants_of])
    assert len({(look.color, look.marker) for look in mechanism.values()}) == len(mechanism)
    assert variants["ot"].color == variants["ot-2048"].color == many["ot"].color
    assert len({str(look) for look in variants.values()}) == len(variants)


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["normal", "deuteranopia", "protanopia"])
def test_the_models_of_figure_5_can_be_told_apart(matrix):
    """By colour or, where two colours come close for a colour-blind reader, by marker."""
    looks = style.looks(["ic", "ot", "gc-0.1", "gc-0.3", "gc-0.5", "gc-0.7", "gc-1"])
    assert len({look.marker for look in looks.values()}) == len(looks)
    main = [matrix @ np.array(to_rgb(looks[name].color)) for name in ("ic", "ot", "gc-0.5")]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(main) for b in main[:i]) > 0.15


def test_text_is_legible_at_column_width(drawn):
    assert min(size for key, size in style.RC.items() if key.endswith(("size", "fontsize")) and "marker" not in key) >= 6
    for figure in drawn[1].values():
        assert figure.canvas.get_figwidth() in (style.COLUMN, style.PAGE)


def test_nothing_is_cut_off(drawn):
    """The outermost pixels of every figure are paper."""
    folder, by_name = drawn
    for name in by_name:
        picture = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == 255).all(), name


def test_a_damaged_sample_grid_is_named_and_left_out(tmp_path):
    runs = make_results(tmp_path, "table1", "digits", [0])
    (path,) = (tmp_path / "runs" / runs[0].id / "samples").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    loaded = reader.read(tmp_path)
    drawn = figures.training_figures(all_cells("digits", loaded), CellValues(loaded))
    shown = next(figure for figure in drawn if figure.name == "figure8-digits")
    assert runs[0].id not in set(shown.data.run)
    assert len(shown.data.dropna(subset="run")) == 2
    assert any(str(path) in text for text in loaded.damage)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[list[dict], dict[str, style.Figure]]:
    root = tmp_path_factory.mktemp("measured")
    levels = [0.1, 1.0, 10.0]

    def row(quantity: str, coupling: str, value: float, **more: float) -> dict:
        return {"quantity": quantity, "data": "digits", "coupling": coupling, "value": value, "n": 1000, **more}

    rows = [row("rtil", c, v / t**2, x=t, se=0.01) for c, v in (("ic", 2), ("gc-ideal", 1)) for t in levels]
    rows += [row("cost", "ic", 109.5, se=0.3), *(row("cost", "gc-ideal", 109 - t, x=t, se=0.3) for t in levels)]
    rows += [row("cost", "gc-0.5", 108 - t + k, x=t, se=0.2, seed=k, run=f"s{k}") for t in levels for k in range(3)]
    rows += [row("lemma1", "ic", -t, x=t, se=0.1, truth=-t) for t in levels]
    rows += [row("theorem1", "ic", 1 + 1 / n, x=2**n, truth=1.0, se=1 / n, seed=0) for n in (3, 5)]
    rows += [
        row("path", c, t, x=t * p, t=t, path=p, seed=0 if c == "gc-1" else None) for c in ("ic", "gc-1") for p in (0, 1) for t in levels
    ]
    measurements.write(root, "digits", "all", [MeasurementRow(**row) for row in rows])
    frame = measurements.read(root, [])
    return rows, {figure.name: figure for figure in figures_measured.measured_figures(frame, "digits", "published")}


def test_measured_quantities_are_drawn(measured, tmp_path):
    rows, by_name = measured
    assert set(by_name) == {f"{name}-digits" for name in ("figure1", "figure2", "figure3", "lemma1", "theorem1")}
    for figure in by_name.values():
        drawing.save(figure, tmp_path)
        assert np.asarray(Image.open(tmp_path / f"{figure.name}.png").convert("L")).std() > 5
    assert pd.read_csv(tmp_path / "figure2-digits.csv").value.tolist() == pytest.approx([row["value"] for row in rows[:6]])
    assert len(by_name["figure2-digits"].fractions()) == 6 + 3  # GC's shares of IC too


def test_measured_means_and_bars_are_those_of_the_statistics(measured):
    """The CSV and the bars of c(t) over three seeds are the interval that tables and verdicts use."""
    figure = measured[1]["figure3-digits"]
    at = figure.data[(figure.data.coupling == "gc-0.5") & (figure.data.x == 1.0)]
    expected = measured_mean(at.itertuples(), (0.0, None))
    assert expected.n == 3
    for column, value in (("mean", expected.mean), ("mean_low", expected.low), ("mean_high", expected.high), ("seeds", 3)):
        assert at[column].tolist() == [value] * 3
    (axes,) = figure.canvas.axes
    ends = [segment[:, 1] for bars in axes.collections for segment in bars.get_segments() if np.allclose(segment[:, 0], 1.0)]
    assert any(np.allclose(sorted(end), [expected.low, expected.high]) for end in ends)


def test_rows_of_another_protocol_share_no_line(tmp_path):
    rows = [{"quantity": "rtil", "data": "digits", "coupling": "ic", "x": t, "value": 1.0, "protocol": "a"} for t in (1.0, 2.0, 3.0)]
    rows += [{"quantity": "rtil", "data": "digits", "coupling": "ic", "x": 2.0, "value": 99.0, "protocol": "b"}]
    measurements.write(tmp_path, "digits", "all", [MeasurementRow(**row) for row in rows])
    (figure,) = figures_measured.measured_figures(measurements.read(tmp_path, []), "digits")
    assert {y for _, _, y, _ in figure.points} == {1.0}


def texts_of(figure: style.Figure) -> list[str]:
    """Every text that a figure shows."""
    figure.canvas.draw_without_rendering()
    return [text.get_text() for text in figure.canvas.findobj(Text) if text.get_text().strip() and text.get_visible()]


@pytest.fixture(scope="module")
def every_figure(drawn, measured, ablations) -> list[style.Figure]:
    return [*drawn[1].values(), *measured[1].values(), *ablations.values()]


def test_every_figure_names_data_set_scale_records_and_seeds(every_figure):
    for figure in every_figure:
        shown = " ".join(texts_of(figure))
        data = figure.title.partition(":")[0]
        assert f"{style.drawn(data)}, {figure.scale} scale" in shown, figure.name
        assert ("published measurements" if figure.data.records.iloc[0].startswith("published") else "own runs") in shown, figure.name
        trained = not figure.name.startswith(("lemma1", "figure2"))
        assert bool(re.search(r"\b\d seeds?\b", shown)) == trained, figure.name


def test_no_figure_shows_a_name_from_the_code(every_figure):
    for figure in every_figure:
        for text in texts_of(figure):
            assert not re.search(r"\bgc-|endpoint_|pair_cost|mu=|(?<![\\$])\brho=|\bn[01]=", text), (figure.name, text)


def test_the_legend_names_all_that_is_drawn(every_figure):
    """Labelled artists, bands, bars, hollow markers, seeds and reference lines each have an entry, and no entry stands for nothing."""
    for figure in every_figure:
        named = [text.get_text().replace("\n", " ") for legend in figure.canvas.legends for text in legend.get_texts()]
        assert len(set(named)) == len(named), figure.name
        every = " ".join(named)
        lines = [line for axes in figure.canvas.axes for line in axes.get_lines()]
        if figure.name.startswith("figure8"):
            continue  # titles name the panels
        for axes in figure.canvas.axes:
            assert set(axes.get_legend_handles_labels()[1]) <= set(named), figure.name
            for line in axes.get_lines():
                across = len(line.get_xdata()) == 2 and list(line.get_xdata()) == [0, 1]
                assert not across or not line.get_label().startswith("_"), f"{figure.name}: a reference line without a name"
        hollow = any(line.get_markerfacecolor() == "white" and line.get_marker() != "None" for line in lines)
        assert hollow == ("hollow" in every), figure.name
        bands = any(len(part.get_paths()) for axes in figure.canvas.axes for part in axes.collections)
        assert bands == ("interval" in every and "95 %" in every), figure.name
        dots = any(line.get_marker() == "." for line in lines)
        assert dots == ("dots" in every), figure.name
        assert any(line.get_marker() in (8, 11) for line in lines) == ("continues below" in every), figure.name


def test_points_of_one_seed_are_hollow(drawn):
    """At the digits scale every cell has two seeds, at the toy scale one."""
    for name, white in (("convergence-digits", False), ("convergence-toy", True), ("mu-digits", False)):
        lines = [line for line in drawn[1][name].canvas.axes[0].get_lines() if line.get_marker() not in ("None", ".", "")]
        assert lines
        assert {line.get_markerfacecolor() == "white" for line in lines} == {white}, name


def test_bands_and_bars_are_the_intervals_of_the_table(tmp_path):
    make_results(tmp_path, "sweep_mu", "digits", [0, 1, 2])
    loaded = reader.read(tmp_path)
    by_name = {figure.name: figure for figure in figures.training_figures(all_cells("digits", loaded), CellValues(loaded))}
    values = table(tmp_path, "sweep_mu")
    rows = by_name["mu-digits"].data
    last = by_name["convergence-digits"].data
    for key, mu in (("ic", 0.0), ("gc-0.5", 0.5)):
        expected = row_of(values, key)
        mine = rows[(rows.mu == mu) & rows.seed.isna()].iloc[0]
        assert (mine["mean"], mine.low, mine.high, mine.n) == (expected["mean"], expected.low, expected.high, 3)
        assert "Student" in mine.interval
        drawn_at = last[(last.key == key) & (last.seed == "mean")]
        assert set(drawn_at.n) == {3}
        assert (drawn_at.low < drawn_at.value).all()


noises = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 50)), min_size=1, max_size=5)


@given(noises, st.booleans(), st.sampled_from(["x", "y"]))
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_no_axis_shows_less_than_the_noise_of_its_points(points, log, which):
    with style.context():
        _, (axes,) = style.new()
        values = [value for value, _ in points]
        axes.plot(*((values, range(len(values))) if which == "x" else (range(len(values)), values)))
        if log:
            style.log_scale(axes, which)
        limits = axes.get_xlim if which == "x" else axes.get_ylim
        before = limits()
        noise.show_noise(axes, points, which)
        low, high = limits()
    assert low <= before[0] + 1e-9
    assert high >= before[1] - 1e-9
    if log:
        assert np.log(high / low) >= noise.NOISES * max(min(1, sd / value) for value, sd in points) * (1 - 1e-9)
    else:
        assert high - low >= noise.NOISES * max(sd for _, sd in points) * (1 - 1e-9)
        assert low >= min(0.0, before[0]), "widened beyond what the quantity can be"


def test_a_run_behind_the_others_is_in_no_mean(tmp_path):
    runs = make_results(tmp_path, "table1", "digits", [0, 1])
    late = next(run for run in expand("table1", "digits", [2]) if run.coupling.kind == "independent")
    make_run(tmp_path, late, done=False)
    loaded = reader.read(tmp_path)
    figure = figures.training_figures(all_cells("digits", loaded), CellValues(loaded))[0]
    assert figure.name == "convergence-digits"
    assert "left out: 1 run" in figure.caption
    means = figure.data[(figure.data.key == "ic") & (figure.data.seed == "mean")]
    assert set(means.n) == {2}
    assert late.id not in set(figure.data.run)
    assert {run.id for run in runs} == set(figure.data.run.dropna())


def test_an_interval_that_reaches_zero_is_cut_and_marked_on_a_logarithmic_axis():
    reaching = Interval(1.0, 0.0, 2.0, 3, "Student's t, 2 degrees of freedom, cut at the bounds")
    inside = Interval(1.0, 0.9, 1.1, 3, "Student's t, 2 degrees of freedom")
    with style.context():
        _, (axes,) = style.new()
        axes.plot([1, 2], [1.0, 1.0])
        assert noise.band(axes, [1, 2], [reaching, inside], style.BLUE, floor=0.5)
        marks = [line for line in axes.get_lines() if line.get_marker() == noise.CLIPPED]
        assert [(list(mark.get_xdata()), list(mark.get_ydata())) for mark in marks] == [([1], [0.5])]
        lowest = min(path.vertices[:, 1].min() for path in axes.collections[0].get_paths())
        assert lowest == 0.5
        assert not noise.band(axes, [1, 2], [inside, inside], style.BLUE, floor=0.5)
        assert not noise.bars(axes, [1, 2], [inside, Interval(1.0, None, None, 1, "one seed")], style.look("ic"), floor=0.5)
        assert noise.bars(axes, [1], [reaching], style.look("ic"), floor=0.5)


@pytest.fixture(scope="module")
def ablations(tmp_path_factory) -> dict[str, style.Figure]:
    root = tmp_path_factory.mktemp("ablations")
    names = ("table2", "table3", "figure4", "schedule", "scaling", "mechanism")
    for name in names:
        make_results(root, name, "toy", [0, 1] if name == "scaling" else [0])
    loaded = reader.read(root)
    cell_values = CellValues(loaded)
    studies = [experiment_cells(Selection(name, "toy"), loaded) for name in names]
    return {figure.name: figure for figure in figures_ablations.ablation_figures(studies, cell_values)}


def test_ablations_are_drawn_setting_by_setting(ablations, tmp_path):
    by_name = ablations
    assert set(by_name) == {f"{name}-toy" for name in ("table2", "table3", "schedule", "scaling", "mechanism", "mechanism-training")}
    for figure in by_name.values():
        drawing.save(figure, tmp_path)
        picture = np.asarray(Image.open(tmp_path / f"{figure.name}.png").convert("L"))
        assert picture.std() > 5
        assert (np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]) == 255).all(), figure.name
    scaling = by_name["scaling-toy"]
    rows = ["as in Table 1", "256 rows", "1,024 rows", "width 64", "width 256", "800 steps", "3,200 steps"]
    assert list(dict.fromkeys(scaling.data.setting)) == rows
    run = next(run for run in expand("scaling", "toy", [1]) if run.data.limit == 256 and run.coupling.kind == "gc")
    mine = scaling.data[scaling.data.run == run.id]
    assert mine["mean"].tolist() == [next(row["value"] for row in records(run) if row["final"] and row["metric"] == "w2")]
    assert len(scaling.fractions()) == len(scaling.points) == 28
    assert set(by_name["table2-toy"].data.setting) == {"400 steps", "1,600 steps"}


def test_real_data_stand_beside_the_samples(drawn):
    """As many real rows as samples, the random training rows that are kept, in the same grid."""
    for scale, data in (("digits", "digits"), ("toy", "eight-gaussians")):
        figure = drawn[1][f"figure8-{scale}"]
        titles = [axes.get_title() for axes in figure.canvas.axes]
        assert "real data, random rows" in titles[0]
        assert set(figure.data.n) == {64}
        assert all("64" in title for title in titles)
        assert all(re.search(r"step [\d,]+", title) for title in titles[1:])
        assert any(r"$\mu$ = 0.5" in title for title in titles)
        rows = real_rows(data, 64)
        if scale == "toy":
            assert np.allclose(figure.canvas.axes[0].collections[0].get_offsets(), rows)
        else:
            grid = figure.canvas.axes[0].get_images()[0].get_array()
            assert grid.shape == (292, 292)
            assert (grid[4:36:4, 40:72:4] == rows[1, 0]).all()


def test_figure_4_names_the_predictors_the_strongest_first(tmp_path):
    make_results(tmp_path, "figure4", "toy", [0])
    loaded = reader.read(tmp_path)
    by_name = {figure.name: figure for figure in figures.training_figures(all_cells("toy", loaded), CellValues(loaded))}
    labels = list(dict.fromkeys(by_name["figure4-toy"].data.model))
    assert labels[:2] == ["iCT-IC", "iCT-GC (mu=1, frozen iCT-IC of 1,600 steps)"]
    assert set(labels[2:]) == {f"iCT-GC (mu=1, frozen iCT-IC {what})" for what in ("at step 320", "of 320 steps")}


def test_log_axes_have_labels_even_within_one_decade():
    with style.context():
        canvas, (axes,) = style.new()
        axes.plot([1, 2], [1.2, 4.5])
        style.log_scale(axes)
        canvas.draw_without_rendering()
        labels = [label.get_text() for label in axes.get_yticklabels(which="both") if label.get_text()]
    assert {"2", "3"} <= set(labels)


@given(st.lists(st.sampled_from([*style._MATHEMATICS, "iCT-GC", " ", "8x8", "-", "(", "n"]), max_size=8).map("".join))
@settings(max_examples=60, deadline=None)
def test_every_text_with_mathematics_can_be_set(text):
    width, _, _ = text_to_path.get_text_width_height_descent(style.drawn(text), FontProperties(size=7), ismath="$" in style.drawn(text))
    assert (width > 0) == bool(text)


def test_labels_are_drawn_as_they_are_and_escaped_in_the_page():
    """A coupling's options may hold anything: no mathematics between dollar signs, no markup."""
    label = "<b>$x$ & $\\frac$ 'y'"
    with style.context():
        canvas, (axes,) = style.new()
        axes.plot([1, 2], [1, 2], label=style.drawn(label))
        figure = heading.figure("labels", canvas, label, Subject(label, "digits", label), "", pd.DataFrame())
        canvas.draw_without_rendering()
    svg = drawing.svg(figure)
    assert svg.count("&lt;b&gt;$x$ &amp; $\\frac$ 'y'") == 6, "legend, title, twice in the lines below it, twice for screen readers"
    assert "<b>" not in svg


def test_the_svg_has_no_inline_styles_and_ids_of_its_own(drawn):
    """The page forbids inline styles; several figures share it."""
    texts = [drawing.svg(figure) for figure in drawn[1].values()]
    assert not re.findall(r" style=|<style|xmlns|https?:", "".join(texts))
    ids = [name for text in texts for name in re.findall(r' id="([^"]*)"', text)]
    assert len(ids) == len(set(ids)) > 10
    for text in texts:
        references = re.findall(r'(?:href="|url\()#([^")]*)', text)
        assert set(references) <= set(re.findall(r' id="([^"]*)"', text))
    assert re.search(r'stroke="#d55e00"', texts[0])
    assert not re.search(r"<defs><path[^>]*stroke=", "".join(texts)), "a style sheet cannot replace the colour of a definition"


@given(st.lists(st.text(st.characters(exclude_characters=",\n"), min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=8))
def test_long_labels_are_broken_between_phrases_and_nowhere_else(words):
    label = ", ".join(words)
    lines = figures_ablations.in_lines(label).split("\n")
    assert " ".join(lines) == label
    assert all(len(line.rstrip(",")) <= figures_ablations.LINE or line.rstrip(",") in words for line in lines)
