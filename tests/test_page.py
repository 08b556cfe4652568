"""The page: one file without network that escapes what records say, opened in a real headless browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_support import make_results, make_run, picture

from harness.config.experiments import expand
from harness.reporting import load, page, page_runs, produce, rendering
from harness.reporting.drawing import Drawn
from harness.reporting.tables import Table
from harness.reporting.values import CellValues
from harness.reporting.verdicts import RULES, Outcome, Verdict
from harness.store.provenance import code

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
VOID = {"meta", "link", "img", "input", "br"}
OFFLINE = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_results(root, "table1", "digits", [0, 1])
    make_results(root, "table1", "toy", [0])
    (root / "runs" / "broken-000000000000").mkdir()
    (root / "runs" / "broken-000000000000" / "config.json").write_text("{")
    assert produce.everything(root) == 0
    return root


@pytest.fixture(scope="module")
def html(results) -> str:
    return (results / "report.html").read_text()


class Elements(HTMLParser):
    """The elements of a page, and tags that are closed in another order than they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]


def test_well_formed_with_every_section_and_unique_ids(html):
    parsed = Elements(html)
    assert (parsed.wrong, parsed.open) == ([], [])
    ids = parsed.values("id")
    assert {"claims", "scale-digits", "scale-toy", "ledger", "runs", "damage", "convergence-digits", "figure8-toy"} <= set(ids)
    assert len(ids) == len(set(ids))


def test_the_default_scale_comes_first_with_its_table_curve_and_claims(html):
    places = [html.index(f'id="{name}"') for name in ("table-table1-digits", "convergence-digits", "claims", "scale-digits", "scale-toy")]
    assert places == sorted(places)
    assert html.index('class="brief"') < html.index('id="claims"')


def test_the_sidebar_links_to_every_table_and_figure(html):
    ids = Elements(html).values("id")
    links = re.findall(r'href="#([^"]*)"', html[html.index("<nav>") : html.index("</nav>")])
    assert set(links) <= set(ids)
    figures = [attributes["id"] for tag, attributes in Elements(html).elements if tag == "figure"]
    assert set(figures) <= set(links)
    tables = [name for name in ids if name.startswith("table-") and name.endswith(("digits", "toy", "coverage", "paper-table1"))]
    assert len(tables) > 3
    assert set(tables) <= set(links)


@pytest.mark.parametrize(
    ("title", "link"),
    [
        ("Table 1: one-step generation (digits scale; own runs)", "Table 1"),
        ("Table 1: one-step generation (digits scale; own runs): diversity", "Table 1: diversity"),
        ("Measured quantities (digits scale) (published records of commit 1234567)", "Measured quantities"),
        ("Bias and variance at mu=0.5", "Bias and variance at μ=0.5"),
    ],
)
def test_links_to_tables_are_short(title, link):
    assert rendering.table_link(title) == link


def test_asks_no_network_and_allows_only_its_own_style_and_script(html):
    assert not re.findall(r"""(?:src|href)\s*=\s*['"]?(?:https?:)?//""", html)
    assert not re.findall(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", html)
    elements = Elements(html).elements
    policy = next(attributes["content"] for tag, attributes in elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert not [name for _, attributes in elements for name in attributes if name == "style" or name.startswith("on")]


def test_the_set_of_records_stands_at_the_top_and_the_rules_at_the_claims(results, html):
    header = html[html.index("<header") : html.index("</header>")]
    assert f"<b>{load.read(results).label}</b>" in header
    claims = html[html.index('<h2 id="claims"') :]
    for rule in RULES:
        assert rule.partition(" ")[0] in claims
    for word in ("Holm", "intersection-union", "two one-sided"):
        assert word in claims


def test_outcomes_differ_by_colour_and_by_sign():
    css = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    names = [str(outcome).replace(" ", "-") for outcome in Outcome]
    signs = [re.search(rf'\.{name}::before {{ content: "(.+?)"; }}', css)[1] for name in names]
    colors = [re.search(rf"\.{name} {{ color: var\((--\w+)\)", css)[1] for name in names]
    assert len(set(signs)) == len(set(colors)) == len(names) == 5


def test_every_run_has_its_section_with_config_machine_and_versions(html):
    for run in [*expand("table1", "digits", [0, 1]), *expand("table1", "toy", [0])]:
        assert f'id="{run.id}"' in html
    for text in ("train.steps", "coupling.kind", "AMD EPYC", "version of torch", "2.11.0", code()["commit"], "protocol.sample_range"):
        assert text in html
    assert "broken-000000000000" in html


def test_text_and_dark_figures_have_enough_contrast():
    """WCAG: 4.5 for text in both modes, 3 for the lines of figures in dark mode."""

    def luminance(color: str) -> float:
        color = "".join(2 * digit for digit in color) if len(color) == 3 else color
        channels = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        return float(np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    def contrast(first: str, second: str) -> float:
        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    css = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    modes = [dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]
    assert len(modes) == 2
    for colors in modes:
        for name in ("ink", "soft", "yes", "no", "same", "open"):
            assert contrast(colors[name], colors["paper"]) >= 4.5, (name, colors[name])
            assert contrast(colors[name], colors["tint"]) >= 4.5, (name, colors[name])
    replaced = dict(re.findall(r'stroke="#(\w{6})"\] \{ stroke: #(\w{6})', css))
    assert len(replaced) >= 5
    for color in (*replaced.values(), "e69f00", "56b4e9", "cc79a7"):
        assert contrast(color, modes[1]["paper"]) >= 3, color


EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)> "\' onclick="alert(1)" javascript:alert(1) {{ 7 * 7 }}'


def assert_harmless(text: str) -> None:
    """No element or attribute comes from EVIL."""
    parsed = Elements(text)
    assert (parsed.wrong, parsed.open) == ([], [])
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert all(re.match(r"#|data:|figures/", value) for name in ("href", "src") for value in parsed.values(name))


def test_options_of_a_users_coupling_are_escaped(tmp_path):
    (tmp_path / "mine.py").write_text("def evil(x, z, sigma, predict):\n    return x, z\n")
    run = expand("table1", "digits", [0], couplings=[f"{tmp_path / 'mine.py'}:evil"])[-1]
    run = run.model_copy(update={"coupling": run.coupling.model_copy(update={"options": {EVIL: f"'\"<b>{EVIL}"}})})
    make_run(tmp_path, run)
    assert produce.everything(tmp_path) == 0
    text = (tmp_path / "report.html").read_text()
    assert_harmless(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_every_text_of_tables_figures_claims_and_damage_is_escaped(tmp_path):
    loaded = load.read(tmp_path)
    loaded.damage.append(EVIL)
    table = Table(f"table1-{EVIL}", EVIL, (EVIL, "b"), ((EVIL,), (EVIL, EVIL)), (EVIL,), data=pd.DataFrame())
    figure = Drawn(f"convergence-{EVIL}", EVIL, EVIL, "digits", True, "<svg></svg>", ((0.5, 0.5, f"'{EVIL}"),))
    verdict = Verdict("C1", EVIL, EVIL, "digits", Outcome.NOT_RUN, ())
    tables = {"digits": [table, Table(EVIL, EVIL, (EVIL,), ())], "toy": []}
    path = page.write_page(tmp_path / "report.html", CellValues(loaded), [verdict], tables, [figure, replace(figure)], [table])
    text = path.read_text()
    assert_harmless(text)
    assert text.count("{{ 7 * 7 }}") >= 10
    points = Elements(text).values("data-points")
    assert len(points) == 2
    assert json.loads(points[0]) == [[0.5, 0.5, f"'{EVIL}"]]


def test_sample_grids_fill_what_the_budget_leaves(tmp_path):
    runs = make_results(tmp_path, "table1", "digits", [0, 1])
    for run in runs:
        (tmp_path / "runs" / run.id / "samples" / f"step-{run.train.steps:08d}.png").write_bytes(picture(np.random.default_rng(1), 800))
    loaded = load.read(tmp_path)

    def section(budget: int) -> str:
        return page_runs.runs_section(CellValues(loaded), budget)

    complete = section(100_000_000)
    assert complete.count("data:image/png") == len(runs)
    size = len(re.sub(r"<img[^>]*>\n?", "", complete).encode())
    assert len(section(size + 100).encode()) == size
    text = section(size + 200_000)
    assert 0 < text.count("data:image/png") < len(runs)
    assert len(text.encode()) <= size + 200_000
    assert page.MOST_BYTES <= 5_000_000
    short = section(size - 3000)
    assert len(short.encode()) <= size - 3000
    assert short.count('<details class="run"') == len(runs)
    assert "too many runs for one page" in short


def browse(path: Path, *options: str, profile: Path) -> str:
    """What headless Chromium prints."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *OFFLINE,
        f"--user-data-dir={profile}",
        "--virtual-time-budget=4000",
    ]
    done = subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(html: str, script: str, folder: Path) -> dict:
    """What a script returns that runs in a copy of the page without its policy."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    script = (
        f"const run = () => {{ {script} }};"
        + """
    addEventListener('load', async () => {
      const result = JSON.stringify(await run());
      document.body.innerHTML = '<pre id=result></pre>';
      document.body.firstChild.textContent = result;
    });"""
    )
    path = folder / "probe.html"
    path.write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    dom = browse(path, "--dump-dom", "--window-size=1280,800", profile=folder / "profile")
    return json.loads(re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1].replace("&amp;", "&"))


@needs_browser
@pytest.mark.parametrize(("scheme", "setting"), [("light", 1), ("dark", 0)])
def test_a_browser_shows_it_light_and_dark(results, tmp_path, scheme, setting):
    options = (f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,2500", f"--blink-settings=preferredColorScheme={setting}")
    browse(results / "report.html", *options, profile=tmp_path / "profile")
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shown.shape == (2500, 1280)
    assert shown.std() > 10
    background = shown > 128 if scheme == "light" else shown < 128
    assert background.mean() > 0.85, "a figure has the background of the other mode"


@needs_browser
def test_its_own_script_runs_and_no_other(html, tmp_path):
    (tmp_path / "page.html").write_text(html.replace("</body>", "<script>document.title = 'injected'</script></body>"))
    dom = browse(tmp_path / "page.html", "--dump-dom", profile=tmp_path / "profile")
    assert "<title>Report" in dom
    assert '<p class="needs-script" hidden' in html
    assert '<p class="needs-script"><input' in dom


@needs_browser
def test_pointing_and_tapping_show_run_step_and_value(html, tmp_path):
    shown = probe(
        html,
        """
        const plot = document.querySelector('#convergence-digits .plot'), box = plot.getBoundingClientRect();
        const [x, y, text] = JSON.parse(plot.dataset.points)[0];
        const at = {clientX: box.left + x * box.width + 2, clientY: box.top + y * box.height - 2, bubbles: true};
        const tip = plot.querySelector('.tip'), state = () => [tip.hidden, tip.textContent];
        plot.dispatchEvent(new PointerEvent('pointermove', {...at, pointerType: 'mouse'}));
        const pointed = state();
        plot.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));
        const left = tip.hidden;
        plot.dispatchEvent(new PointerEvent('click', {...at, pointerType: 'touch'}));
        plot.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'touch'}));
        const tapped = state();
        document.body.click();
        const elsewhere = tip.hidden;
        const search = document.querySelector('#find');
        search.value = 'digits-ic-s1'; search.dispatchEvent(new Event('input'));
        const runs = [...document.querySelectorAll('details.run')].filter(run => !run.hidden).map(run => run.id);
        const broken = [...document.images].filter(image => !(image.complete && image.naturalWidth)).length;
        return {pointed, left, tapped, elsewhere, text, runs, broken, images: document.images.length};
        """,
        tmp_path,
    )
    assert shown["pointed"] == shown["tapped"] == [False, shown["text"]]
    assert re.search(r"seed 0\nstep [\d,]+: FID [\d.]+\ndigits-", shown["text"])
    assert (shown["left"], shown["elsewhere"]) == (True, True)
    assert [run[:12] for run in shown["runs"]] == ["digits-ic-s1"]
    assert shown["images"] >= 6
    assert shown["broken"] == 0


@needs_browser
def test_the_first_screen_has_table_curve_and_claims_and_a_phone_can_read_it(html, tmp_path):
    """In a frame of 390 x 844 pixels: nothing but tables and wide figures scrolls sideways, and the menu opens without a script."""
    shown = probe(
        html,
        """
        const bottom = selector => document.querySelector(selector).getBoundingClientRect().bottom;
        const desktop = ['#table-table1-digits', '#convergence-digits', '.brief'].map(bottom);
        const frame = document.createElement('iframe');
        frame.width = 390; frame.height = 844;
        frame.srcdoc = document.documentElement.outerHTML.replaceAll('class="hint" hidden=""', 'class="hint"')
          .replaceAll('<script>', '<template>').replaceAll('<\\/script>', '</template>');
        document.body.append(frame);
        return new Promise(resolve => frame.addEventListener('load', () => {
          const page = frame.contentDocument, style = selector => frame.contentWindow.getComputedStyle(page.querySelector(selector));
          const first = page.querySelector('#table-table1-digits tbody td'), scroller = first.closest('.scroll');
          const menu = [style('nav .links').display];
          page.querySelector('nav label').click();
          menu.push(style('nav .links').display);
          scroller.scrollLeft = 200;
          const width = page.documentElement.scrollWidth, hint = style('#table-table1-digits .hint').display;
          const sticky = first.getBoundingClientRect().left - scroller.getBoundingClientRect().left;
          resolve({desktop, menu, width, hint, sticky, column: first.getBoundingClientRect().width, scrolled: scroller.scrollLeft});
        }));
        """,
        tmp_path,
    )
    assert max(shown["desktop"]) <= 800
    assert shown["menu"] == ["none", "block"]
    assert shown["width"] <= 390
    assert shown["hint"] == "block"
    assert shown["scrolled"] > 0
    assert abs(shown["sticky"]) < 1, "the first column does not stay"
    assert 90 <= shown["column"] <= 195
