"""The page: one file without network, opened in a real headless browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_support import make_results, make_run, picture

from harness import report
from harness.config.experiments import expand
from harness.reporting import load, page, page_runs
from harness.reporting.values import Numbers

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
VOID = {"meta", "link", "img", "input", "br", "circle", "polyline"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_results(root, "table1", "digits", [0, 1])
    make_results(root, "table1", "toy", [0])
    (root / "runs" / "broken-000000000000").mkdir()
    (root / "runs" / "broken-000000000000" / "config.json").write_text("{")
    assert report.main(["--results", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def html(results) -> str:
    return (results / "report.html").read_text()


def browse(path: Path, *options: str, profile: Path) -> str:
    """What headless Chromium prints."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=4000"]
    done = subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Balance(HTMLParser):
    """Notes tags that are closed in another order than they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_well_formed_with_every_section_and_unique_ids(html):
    found = Balance()
    found.feed(html)
    assert (found.wrong, found.open) == ([], [])
    assert {"claims", "tables", "figures", "ledger", "runs", "damage", "convergence-digits", "figure8-toy"} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_asks_no_network(html):
    assert not re.findall(r"""(?:src|href)\s*=\s*['"]?(?:https?:)?//""", html)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest", html)


def test_every_run_has_its_section_with_config_machine_and_versions(html):
    for run in [*expand("table1", "digits", [0, 1]), *expand("table1", "toy", [0])]:
        assert f"id='{run.id}'" in html
    for text in ("train.steps", "coupling.kind", "AMD EPYC", "version of torch", "2.11.0", "0123456789abcdef", "protocol.sample_range"):
        assert text in html
    assert "broken-000000000000" in html


@needs_browser
def test_a_browser_shows_it(results, tmp_path):
    browse(results / "report.html", f"--screenshot={tmp_path / 'page.png'}", "--window-size=1100,2500", profile=tmp_path / "profile")
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shown.shape == (2500, 1100)
    assert shown.std() > 10


@needs_browser
def test_hovering_a_curve_shows_run_step_and_value(html, tmp_path):
    """A script in a copy of the page moves the mouse over a point and writes down what the page then shows."""
    probe = """
    addEventListener('load', () => {
      const plot = document.querySelector('#convergence-digits .plot'), box = plot.getBoundingClientRect();
      const [x, y, text] = JSON.parse(plot.dataset.points)[0];
      const at = {clientX: box.left + x * box.width + 2, clientY: box.top + y * box.height - 2};
      plot.dispatchEvent(new MouseEvent('mousemove', at));
      const tip = plot.querySelector('.tip'), shown = [tip.hidden, tip.textContent];
      plot.dispatchEvent(new MouseEvent('mouseleave', {}));
      const search = document.querySelector('#find');
      search.value = 'digits-ic-s1'; search.dispatchEvent(new Event('input'));
      const runs = [...document.querySelectorAll('details.run')].filter(run => !run.hidden).map(run => run.id);
      const pictures = [...document.images].filter(image => !(image.complete && image.naturalWidth)).length;
      const result = {shown, text, after: tip.hidden, runs, pictures, images: document.images.length};
      document.body.innerHTML = '<pre id=result></pre>'; document.body.firstChild.textContent = JSON.stringify(result);
    });
    """
    (tmp_path / "probe.html").write_text(html.replace("</body>", f"<script>{probe}</script></body>"))
    dom = browse(tmp_path / "probe.html", "--dump-dom", profile=tmp_path / "profile")
    found = json.loads(re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1].replace("&amp;", "&"))
    assert found["shown"] == [False, found["text"]]
    assert re.search(r"seed 0\nstep [\d,]+: FID [\d.]+\ndigits-", found["text"])
    assert found["after"] is True
    assert [run[:12] for run in found["runs"]] == ["digits-ic-s1"]
    assert found["images"] > 8
    assert found["pictures"] == 0


def test_names_are_escaped(tmp_path):
    (tmp_path / "mine.py").write_text("def evil(x, z, sigma, predict):\n    return x, z\n")
    run = expand("table1", "digits", [0], couplings=[f"{tmp_path / 'mine.py'}:evil"])[-1]
    run = run.model_copy(update={"coupling": run.coupling.model_copy(update={"options": {"<script>alert(1)</script>": "'\"<b>"}})})
    make_run(tmp_path, run)
    assert report.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_sample_grids_fill_what_the_budget_leaves(tmp_path, monkeypatch):
    runs = make_results(tmp_path, "table1", "digits", [0, 1])
    for run in runs:
        (tmp_path / "runs" / run.id / "samples" / f"step-{run.train.steps:08d}.png").write_bytes(picture(np.random.default_rng(1), 800))
    book = load.read(tmp_path)
    whole = page_runs.runs_section(book, Numbers(book), 100_000_000)
    assert whole.count("data:image/png") == len(runs)
    size = len(re.sub(r"<img[^>]*>", "", whole))
    assert len(page_runs.runs_section(book, Numbers(book), size + 100)) == size
    text = page_runs.runs_section(book, Numbers(book), size + 200_000)
    assert 0 < text.count("data:image/png") < len(runs)
    assert len(text) <= size + 200_000
    assert page.MOST_BYTES <= 5_000_000
    short = page_runs.runs_section(book, Numbers(book), size - 3000)
    assert len(short) <= size - 3000
    assert short.count("<details class='run'") == len(runs)
    assert "too many runs for one page" in short
