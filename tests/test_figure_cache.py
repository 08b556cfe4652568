"""Figures are drawn once: what makes a report draw one again, and that a report which draws none imports no matplotlib."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_support import make_run, records

from harness.config.experiments import expand
from harness.reporting import drawing, figure_cache, figure_requests, load, produce
from harness.reporting.cells import all_cells
from harness.reporting.figure_cache import SUFFIXES, Content
from harness.reporting.figure_requests import Drawn, Request
from harness.reporting.values import CellValues
from harness.store.runs import RunFolder

NAMES = ("convergence-toy", "figure8-toy")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def results(tmp_path):
    """Two couplings with one seed each: few curves, so that drawing is fast."""
    for run in expand("table1", "toy", [0])[:2]:
        make_run(tmp_path, run)
    return tmp_path


def read(root: Path) -> tuple[CellValues, list[Request]]:
    loaded = load.read(root)
    cell_values = CellValues(loaded)
    requests = figure_requests.training(all_cells("toy", loaded), cell_values)
    return cell_values, [request for request in requests if request.name in NAMES]


def draw(root: Path) -> list[Drawn]:
    cell_values, requests = read(root)
    return figure_cache.figures(requests, root / "figures", cell_values)


def state(root: Path, name: str = NAMES[0]) -> list[tuple[bytes, int]]:
    """Content and time of each file of a figure."""
    paths = [root / "figures" / f"{name}.{suffix}" for suffix in SUFFIXES]
    return [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]


def times(root: Path, name: str = NAMES[0]) -> list[int]:
    return [time for _, time in state(root, name)]


def test_a_figure_is_drawn_once_and_again_where_data_files_or_code_differ(results, monkeypatch):
    first, before = draw(results), state(results)
    assert [figure.name for figure in first] == list(NAMES) and first[0].svg.startswith("<svg") and first[0].points
    assert draw(results) == first and state(results) == before

    (results / "figures" / f"{NAMES[0]}.png").write_bytes(b"edited")
    (results / "figures" / f"{NAMES[0]}.pdf").unlink()
    assert draw(results) == first and [content for content, _ in state(results)] == [content for content, _ in before]

    grid = next((results / "runs").glob("*/samples/step-*.npy"))  # of the second figure only
    drawn, other = times(results), times(results, NAMES[1])
    content = grid.read_bytes()
    grid.write_bytes(content[:-4] + b"\0\0\0\0")
    draw(results)
    assert times(results) == drawn and min(times(results, NAMES[1])) > max(other)

    monkeypatch.setattr(figure_cache, "_code", lambda: "other code")
    draw(results)
    assert min(times(results)) > max(drawn)


def test_a_damaged_entry_of_the_cache_counts_as_none(results):
    cell_values, requests = read(results)
    request, key, folder = requests[0], Content(cell_values).key(requests[0]), results / "figures"
    (drawn,) = figure_cache.figures([request], folder, cell_values)
    entry = folder / "cache" / f"{request.name}.json"
    whole = entry.read_bytes()
    edited = json.loads(whole)
    edited["shown"]["figure"]["svg"] = "<svg>edited</svg>"  # what the page would show
    assert figure_cache.stored(folder, request.name, key) is not None
    for damage in (b"", b"{}", b"[1]", b'{"key": 1', b"\xff", whole[:-2], json.dumps(edited).encode()):
        entry.write_bytes(damage)
        assert figure_cache.stored(folder, request.name, key) is None
    assert figure_cache.figures([request], folder, cell_values) == [drawn] and entry.read_bytes() == whole


def test_other_processes_draw_beside_the_block_and_end_with_it(results, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "FEW", 1)
    monkeypatch.setattr(drawing, "_can_fork", lambda: True)
    drawn_by: list[int] = []
    monkeypatch.setattr(drawing, "_draw_request", lambda request, *_: (drawn_by.append(os.getpid()), (None, [str(os.getpid())]))[1])
    cell_values, requests = read(results)
    with figure_cache.drawing(requests, tmp_path / "figures", cell_values) as figures:
        assert figures() == [] and not drawn_by
    processes = set(map(int, cell_values.loaded.damage))
    assert len(cell_values.loaded.damage) == len(NAMES) and os.getpid() not in processes
    with pytest.raises(KeyError), figure_cache.drawing(requests, tmp_path / "others", cell_values):
        raise KeyError
    assert not multiprocessing.active_children()


def test_a_report_leaves_garbage_collection_as_it_was(results):
    before = gc.get_threshold()
    assert produce.everything(results / "empty") == 0 and gc.get_threshold() == before


def test_damaged_samples_are_named_also_where_the_figure_is_not_drawn_again(results):
    for grid in (results / "runs").glob("*/samples/step-*.npy"):
        grid.write_bytes(b"no array")
    texts = []
    for _ in range(2):
        cell_values, requests = read(results)
        assert [figure.name for figure in figure_cache.figures(requests, results / "figures", cell_values)] == [NAMES[0]]
        texts.append([text for text in cell_values.loaded.damage if "damaged sample grid" in text])
    assert len(texts[0]) == 2 and texts[0] == texts[1]


def test_the_key_depends_on_every_record_and_on_where_runs_were_made(tmp_path):
    run = expand("table1", "toy", [0])[0]
    keys = []
    for number in range(4):
        root = tmp_path / str(number)
        rows = records(run)
        if number == 1:
            rows[0]["value"] = float(rows[0]["value"]) * (1 + 2**-52)
        if number == 2:
            rows = rows[1:]
        make_run(root, run, rows=rows)
        if number == 3:
            RunFolder(root / "runs" / run.id).add_attempt({"device": "another one", "commit": "0" * 40})
        cell_values, (request, *_) = read(root)
        keys.append(Content(cell_values).key(request))
    assert len(set(keys)) == 4
    cell_values, (request, *_) = read(tmp_path / "0")
    assert Content(cell_values).key(request) == keys[0]


def test_what_has_no_known_content_is_refused(results):
    cell_values, _ = read(results)
    with pytest.raises(TypeError, match="content is not known"):
        Content(cell_values).key(Request("x", "figures:curves", (object(),)))


def test_a_report_that_draws_nothing_imports_no_matplotlib_and_none_imports_torch(results):
    command = ["report", "--scale", "toy", "--results", str(results)]
    for forbidden in (("torch", "scipy.stats"), ("torch", "scipy.stats", "scipy.optimize", "matplotlib")):
        code = f"import sys; from harness.cli import main; assert main({command!r}) == 0; assert not {{*{forbidden!r}}} & {{*sys.modules}}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_help_imports_no_command(tmp_path):
    heavy = ("numpy", "pandas", "rich", "torch", "harness.sweep.plan", "harness.commands.sweeps", "harness.commands.reports")
    code = f"import sys; from harness.cli import main; assert main(['--help']) == 0; assert not {{*{heavy!r}}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_every_command_names_a_function():
    from importlib import import_module

    from harness.cli import build_parser

    text = (ROOT / "harness" / "cli.py").read_text()
    named = [line.split('"')[3] for line in text.splitlines() if 'add("' in line and line.count('"') >= 4 and "." in line.split('"')[3]]
    assert len(named) >= 12 and build_parser()
    for name in named:
        module, _, function = name.partition(".")
        assert callable(getattr(import_module(f"harness.commands.{module}"), function))
