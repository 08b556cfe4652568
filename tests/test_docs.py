"""The documents: commands parse, links and paths exist, versions agree, and the examples of CONTRIBUTING.md run as they are printed."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness import cli
from harness.config import experiments
from harness.locations import PACKAGE
from harness.store.runs import Store

ROOT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING, CHANGELOG = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
GUIDES = (README, CONTRIBUTING)
TINY = ["--set", "train.steps=20", "--set", "evaluation.every=20", "--set", "evaluation.samples=40", "--set", "evaluation.resamplings=2"]
INLINE = ["--executor", "inline", "--quiet", "--device", "cpu"]


def blocks(path: Path, language: str = "") -> list[tuple[str, str]]:
    """The fenced blocks of a document in one language, each with the rest of its info line."""
    matches = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [(info.strip(), text) for name, info, text in matches if name == language]


def example(file: str, language: str = "python") -> str:
    """The example of CONTRIBUTING.md that is to be saved as `file`."""
    (text,) = (text for info, text in blocks(CONTRIBUTING, language) if info == f"file={file}")
    return text


def indented(path: Path) -> list[str]:
    """The lines of the indented blocks of a document."""
    return [
        line.strip()
        for line in re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL).splitlines()
        if line[:4] == " " * 4
    ]


def inline(path: Path) -> list[str]:
    """The inline code of a document."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(path: Path, program: str) -> list[list[str]]:
    """The arguments of every command line of a document that calls `program`; comments are cut off."""
    lines = [part.strip() for line in indented(path) + inline(path) for part in line.split("&&")]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


def parse(arguments: list[str]) -> argparse.Namespace | None:
    """The namespace of a harness command; None for one without its arguments, such as `harness report` in a sentence."""
    parser = cli.build_parser()
    known = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if arguments[0].startswith("-"):
        return parser.parse_args(arguments)
    assert arguments[0] in known, arguments
    required = any(action.required for action in known[arguments[0]]._actions)
    return None if required and len(arguments) == 1 else parser.parse_args(arguments)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_harness_commands_parse(path, monkeypatch, tmp_path):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "experiments" / "batch_size.py").write_text(example("experiments/batch_size.py"))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path / "experiments"))
    lines = commands(path, "harness")
    assert len(lines) >= 8
    for arguments in lines:
        namespace = parse(arguments)
        named = getattr(namespace, "experiment", None)
        assert named in (None, "all", *experiments.names()), arguments


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_make_commands_name_targets_and_their_options_parse(path):
    lines = commands(path, "make")
    targets = {word for words in lines for word in words if "=" not in word} - {"batch_size"}
    assert len(targets) >= 4
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "SCALE", "EXECUTOR", "SWEEP"))}
    done = subprocess.run(["make", "-n", *sorted(targets)], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    for words in lines:
        options = [word.partition("=")[2] for word in words if word.startswith("SWEEP_ARGS=")]
        for text in options:
            assert parse(["reproduce", "table1", *shlex.split(text)])


@pytest.mark.parametrize("path", [*GUIDES, CHANGELOG], ids=lambda path: path.name)
def test_links_pictures_and_paths_exist(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not link.startswith("#") and not (ROOT / link).exists()]
    if path != CHANGELOG:
        paths = [
            code
            for code in inline(path)
            if re.fullmatch(r"(harness|experiments|tests|docs|\.ci|\.github|results/published)/[\w./-]*", code)
        ]
        missing += [code for code in paths if not (ROOT / code).exists() and code != "experiments/batch_size.py"]
    assert not missing


@pytest.mark.parametrize("path", [*GUIDES, CHANGELOG], ids=lambda path: path.name)
def test_names_of_modules_exist(path):
    text = path.read_text()
    if path == CHANGELOG:  # of a renaming, what it is now
        text = "\n".join(line.split("|")[2] for line in text.splitlines() if line.startswith("| `harness."))
    names = set(re.findall(r"\bharness(?:\.[a-z_]+)+(?:\.[A-Z]\w+)?\b", text))
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        if attribute[0].isupper():
            assert hasattr(importlib.import_module(module), attribute), name
        else:
            public = module == "harness" and attribute in harness.__all__
            assert public or importlib.util.find_spec(name), name


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_python_and_toml_blocks_parse(path):
    python, toml = blocks(path, "python"), blocks(path, "toml")
    assert python and toml
    for _, text in python:
        compile(text, path.name, "exec")
    for _, text in toml:
        assert tomllib.loads(text)


def test_the_site_file_of_the_readme_is_valid(tmp_path):
    from harness.sweep.site import Site, load_site

    ((_, text),) = blocks(README, "toml")
    (tmp_path / "site.toml").write_text(text)
    site = load_site(tmp_path / "site.toml")
    assert site != Site() and site.time == 480


def test_the_messages_of_the_troubleshooting_table_are_those_of_the_code():
    rows = README.read_text().partition("## Troubleshooting")[2].splitlines()
    messages = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert len(messages) >= 3
    sources = "".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / ".ci").glob("*.py"), *PACKAGE.rglob("*.py")))
    assert [message for message in messages if message not in sources] == []


def test_the_layouts_list_every_folder_of_the_package():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING.read_text(), re.MULTILINE)) == folders
    layout = README.read_text().partition("## Layout")[2]
    assert set(re.findall(r"\b(\w+)/ ", layout)) >= folders
    assert all((PACKAGE / name).is_file() for name in re.findall(r"\b(\w+\.py)\b", layout.partition("results/")[0]))


def test_the_layers_of_contributing_are_those_of_the_contract():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    (line,) = (line for line in indented(CONTRIBUTING) if line.startswith("errors <"))
    assert line.split(" < ") == contract[::-1]


def test_the_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    releases = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", CHANGELOG.read_text(), re.MULTILINE)
    assert releases[0] == version and releases == sorted(releases, key=lambda text: [int(part) for part in text.split(".")], reverse=True)


def test_the_lock_file_is_that_of_the_release_command():
    (command,) = (line for line in indented(CONTRIBUTING) if line.startswith("uv pip compile"))
    assert {"--universal", "--no-annotate", "--no-header", "--no-emit-index-url"} < set(command.split())
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^\s*(#|-)", lock, re.MULTILINE), "neither a header, nor annotations, nor an index"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for name in re.findall(r"--extra (\w+)", command) for requirement in project["optional-dependencies"][name]]
    for requirement in project["dependencies"] + extras:
        assert re.search(rf"^{re.split('[>=<]', requirement)[0]}==", lock, re.MULTILINE), requirement


def test_couplings_of_both_documents_train(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (readme,) = (text for _, text in blocks(README, "python") if "def half_swapped" in text)
    Path("my_coupling.py").write_text(readme)
    Path("antithetic.py").write_text(example("antithetic.py"))
    (mine,) = (line for line in commands(README, "harness") if "my_coupling.py:half_swapped" in line)
    (other,) = (line for line in commands(CONTRIBUTING, "harness") if "antithetic.py:antithetic" in line)
    assert other[:2] == mine[:2] == ["reproduce", "table1"]
    results = ["--results", str(tmp_path / "results")]
    assert cli.main([*mine, *other[other.index("--seeds") :], *TINY, *INLINE, *results]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "results" / "tables").glob("table1-toy-*.csv")
    rows = pd.read_csv(path)
    assert {"half-swapped", "antithetic"} < set(rows[rows.metric == "w2"].dropna(subset="mean").key), printed
    assert len(Store(tmp_path / "results").folders()) == 6, "five runs and the baselines"


def test_the_example_of_an_experiment_is_planned(tmp_path, capsys, monkeypatch):
    shutil.copy(ROOT / "experiments" / "table1.py", tmp_path)
    (tmp_path / "batch_size.py").write_text(example("experiments/batch_size.py"))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    (plan,) = (line for line in commands(CONTRIBUTING, "harness") if line[:2] == ["plan", "batch_size"])
    assert cli.main(plan) == 0
    printed = capsys.readouterr().out
    runs = experiments.expand("batch_size", "toy")
    assert len(runs) == 6 and all(run.id in printed for run in runs)
    assert len({run.train.steps * run.train.batch for run in runs}) == 1
    assert len({run.id for run in runs} & {run.id for run in experiments.expand("table1", "toy")}) == 2
    assert len(experiments.load("batch_size").title) < 140


def apply(diff: str, root: Path) -> None:
    """Applies the hunks of a diff, each of which must match exactly one place of its file."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split(r"^@@.*\n", part, flags=re.MULTILINE)
        path = root / name.strip()
        text = path.read_text()
        for hunk in hunks:
            lines = hunk.splitlines()
            old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] != sign) for sign in "+-")
            assert text.count(old or "\n") == 1, f"{name.strip()}: not exactly one place is\n{old}"
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the project with the data set, metric and claim of CONTRIBUTING.md."""
    root = tmp_path_factory.mktemp("changed")
    for name in ("harness", "experiments"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(ROOT / "results" / "published", root / "results" / "published", ignore=shutil.ignore_patterns("samples"))
    diffs = blocks(CONTRIBUTING, "diff")
    assert len(diffs) == 2
    for _, diff in diffs:
        apply(diff, root)
    claim = "harness/reporting/paper_values.toml"
    (root / claim).write_text((root / claim).read_text() + "\n" + example(claim, "toml"))
    return root


def run(root: Path, *arguments: str) -> str:
    """The output of a harness command of that copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "COLUMNS"))} | {
        "PYTHONPATH": str(root)
    }
    command = [sys.executable, "-m", "harness", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_of_a_data_set_and_a_metric_reach_the_table(changed):
    (line,) = (line for line in commands(CONTRIBUTING, "harness") if "data.name=ring" in line)
    printed = run(changed, *line, *TINY, *INLINE, "--results", "ring")
    assert "Ring" in printed and "energy" in printed
    (path,) = (changed / "ring" / "tables").glob("table1-toy-*.csv")
    rows = pd.read_csv(path)
    rows = rows[(rows.data == "ring") & (rows.metric == "energy")]
    models, baselines = rows[rows.kind == "model"]["mean"], rows[rows.kind == "baseline"].set_index("model")["mean"]
    assert len(models) == 3 and models.gt(0).all()
    assert 3 * baselines["real data, held out"] < baselines["pure noise"]


def test_the_example_of_a_claim_is_judged(changed):
    line = ["report", "table1", "--records", "published"]
    assert line in commands(CONTRIBUTING, "harness")
    printed = [text.rstrip() for text in run(changed, *line).splitlines()]
    (number,) = (number for number, text in enumerate(printed) if text.startswith("C14"))
    assert printed[number].endswith("SUPPORTED") and "ot - ic" in printed[number + 1]
