"""`harness serve`: pages that follow runs, asked for over HTTP and opened in a real headless browser."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from report_support import make_results

from harness.cli import main
from harness.config.selection import Selection
from harness.live import content
from harness.live.content import Kept, Pages, tail
from harness.live.server import Server
from harness.store.runs import Store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>document.title='x'</script>\x1b[31m"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_results(folder, "table1", "digits", [0, 1])
    make_results(folder, "table1", "toy", [0])
    return folder


@contextlib.contextmanager
def serving(pages: Pages, host: str = "127.0.0.1"):
    with Server(pages, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), answer.headers


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """All files; the times of folders change, since a clock is read by a file that is removed at once."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_first_page_shows_every_run_its_curve_and_its_samples(root):
    before, ids = snapshot(root), {folder.id for folder in Store(root).folders()}
    with serving(Pages(Store(root))) as server:
        status, html, headers = ask(server, "/")
        assert status == 200 and {run for run in ids if f'href="/runs/{run}"' in html} == ids
        assert len(re.findall("<svg", html)) == 2, "a figure of each scale"
        grids = re.findall(r'src="(/runs/[^"]+/samples/[^"]+)"', html)
        assert grids and all(ask(server, grid)[2]["Content-Type"] == "image/png" for grid in grids)
        assert "script-src 'sha256-" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    assert snapshot(root) == before


def test_the_runs_of_an_experiment_alone(root):
    selection = Selection("table1", "digits", results=root)
    html = Pages(Store(root), selection).overview()
    assert "table1: 9 runs" in html and "eight-gaussians" not in html
    assert html.count(">new<") == 3, "three seeds are planned, two have begun"


def test_the_page_of_a_run_shows_its_values_settings_and_log(root):
    folder = next(folder for folder in Store(root).folders() if folder.id.startswith("digits-gc"))
    folder.log.write_text("step 1\nstep 2 \x1b[31mred\n")
    with serving(Pages(Store(root))) as server:
        status, html, _ = ask(server, f"/runs/{folder.id}")
    assert status == 200 and "step 1\nstep 2 " in html and "\x1b" not in html
    assert "coupling.mu" in html and "FID" in html and "data:image/png" in html


@pytest.mark.parametrize(
    "path",
    ["/runs/none", "/runs/..", "/runs/%2e%2e/", "/runs/{run}/samples/..%2fconfig.json", "/runs/{run}/samples/x.png", "/etc/passwd", "/x"],
)
def test_what_is_no_page_is_not_found(root, path):
    run = Store(root).folders()[0].id
    with serving(Pages(Store(root))) as server:
        status, html, _ = ask(server, path.format(run=run))
    assert status == 404 and "no such" in html


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(root, method):
    with serving(Pages(Store(root))) as server:
        assert ask(server, "/", method)[0] == 501
        assert ask(server, "/", "HEAD")[:2] == (200, "")


def test_a_page_of_elsewhere_cannot_use_the_browser_to_read(root):
    """DNS rebinding: the name of a foreign page is made to point to this machine."""
    with serving(Pages(Store(root))) as server:
        assert ask(server, "/", Host="evil.example")[0] == 403
        assert [ask(server, "/", Host=name)[0] for name in ("localhost:8321", "127.0.0.1", "[::1]:80")] == [200] * 3


def test_what_records_and_names_say_is_escaped(tmp_path):
    make_results(tmp_path, "table1", "toy", [0])
    folder = Store(tmp_path).folders()[0]
    folder.log.write_text(HOSTILE)
    (tmp_path / "runs" / "<b>odd").mkdir()
    (tmp_path / "runs" / "<b>odd" / "config.json").write_text("{")
    folder.write_error("crash", HOSTILE)
    (folder.path / "result.json").unlink()
    pages = Pages(Store(tmp_path))
    for html in (pages.overview(), pages.run(folder.id), pages.run("<b>odd")):
        assert "<script>document" not in html and "<b>odd" not in html and "\x1b" not in html
    assert "&lt;b&gt;odd" in pages.overview()


def test_a_reading_is_kept_for_a_time_that_grows_with_its_cost():
    now, cost, readings = [0.0], [0.5], itertools.count(1)

    def read() -> int:
        now[0] += cost[0]
        return next(readings)

    kept = Kept(read, lambda: now[0])
    assert [kept(), kept()] == [1, 1]
    now[0] += content.LEAST + 0.01
    assert kept() == 2
    now[0] += content.PATIENCE * cost[0] + 0.01
    cost[0] = 3.0
    assert kept() == 3
    now[0] += content.PATIENCE * cost[0] - 0.01
    assert kept() == 3
    now[0] += 0.02
    assert kept() == 4


def test_the_figure_of_unchanged_records_is_not_drawn_again(root, monkeypatch):
    monkeypatch.setattr(content, "PATIENCE", 0.0)
    monkeypatch.setattr(content, "LEAST", 0.0)
    drawn, pages = [], Pages(Store(root))
    draw = content.svg
    monkeypatch.setattr(content, "svg", lambda figure: drawn.append(figure.name) or draw(figure))
    assert pages.overview() and len(drawn) == 2
    assert pages.overview() and len(drawn) == 2


@pytest.mark.parametrize("size", [0, 10, content.TAIL, content.TAIL + 1, 3 * content.TAIL])
def test_the_end_of_a_log(tmp_path, size):
    lines = [f"line {number} é" for number in range(size // 8)]
    (tmp_path / "log.txt").write_text("\n".join(lines))
    shown = tail(tmp_path / "log.txt").splitlines()
    assert shown == lines[len(lines) - len(shown) :] and len("\n".join(shown).encode()) <= content.TAIL
    assert len(shown) == len(lines) or len("\n".join(shown).encode()) > content.TAIL - 20
    assert tail(tmp_path / "none") == ""


def test_an_address_that_cannot_be_used_is_one_message(root, capsys):
    with serving(Pages(Store(root))) as server:
        taken = str(server.server_address[1])
        assert main(["serve", "--port", taken, "--results", str(root)]) == 2
    assert "cannot listen" in capsys.readouterr().err
    assert main(["serve", "--host", "192.0.2.1", "--results", str(root)]) == 2
    assert "192.0.2.1" in capsys.readouterr().err
    for arguments in (["--port", "70000"], ["--port", "x"], ["--scale", "toy"]):
        assert main(["serve", *arguments, "--results", str(root)]) == 2
        assert arguments[0] in capsys.readouterr().err


def test_the_command_serves_until_ctrl_c(root):
    command = [sys.executable, "-m", "harness", "serve", "--port", "0", "--results", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout
        line = process.stdout.readline()
        host, port = re.match(r"http://([\d.]+):(\d+)/ shows", line).groups()
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
def test_a_browser_shows_what_has_happened_since_it_opened_the_page(root, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "PATIENCE", 0.0)
    monkeypatch.setattr(content, "LEAST", 0.0)
    asked = itertools.count(1)
    monkeypatch.setattr(content.time, "strftime", lambda *_: f"reading {next(asked)}")
    with serving(Pages(Store(root))) as server:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=12000", "--dump-dom", server.url]
        done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    shown = int(re.search(r"read at reading (\d+)", done.stdout)[1])
    assert shown > 1 and 'role="status" hidden' in done.stdout
