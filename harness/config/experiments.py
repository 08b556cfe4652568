"""The files in experiments/: each declares the runs of one table, figure or question. No torch.

An experiment is experiments/NAME.py with a docstring and `runs(scale, seeds) -> list[Run]`. Optional are `SEEDS`, its default number of
training seeds (else that of the scale), and `REPORT`, a description of its table.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from harness.config import presets
from harness.config.baselines import Job
from harness.config.overrides import from_dict, put
from harness.config.parts import Custom, Independent
from harness.config.run import Run
from harness.config.speed import FAST, fast_settings
from harness.errors import HarnessError, MissingFile, UnknownKey, unknown
from harness.locations import experiments_root, project_root, read_regular, user_path

AnyJob = TypeVar("AnyJob", bound=Job)
MOST_SEEDS = 1000
MOST_CODE = 16 << 20
"""Bytes of the file of a coupling."""


class OtherData(HarnessError):
    """An experiment has no runs on a data set that was asked for."""


@dataclass(frozen=True)
class Experiment:
    """One loaded experiment file."""

    name: str
    path: Path
    doc: str
    """The docstring; its first line is the title."""
    runs: Callable[[str, tuple[int, ...]], list[Run]]
    seeds: int | None = None
    """Default number of training seeds; None for the scale's."""
    report: Any = None

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().partition("\n")[0]

    def default_seeds(self, scale: str) -> tuple[int, ...]:
        """The training seeds 0, 1, ... that are used by default. Raises HarnessError for an unknown scale."""
        return tuple(range(self.seeds or presets.scale(scale).seeds))


def names() -> list[str]:
    """The available experiments, sorted. Only regular files: a pipe would wait for somebody who writes to it."""
    return sorted(path.stem for path in experiments_root().glob("*.py") if not path.name.startswith("_") and path.is_file())


def load(name: str) -> Experiment:
    """The experiment of that name. Raises HarnessError for an unknown name, and for a file that cannot be executed or declares no runs."""
    path = experiments_root() / f"{name}.py"
    if name not in (available := names()):
        raise unknown("experiment", name, available or ["(none)"], where=experiments_root())
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _faults_named(path, "the experiment cannot be executed"):
        spec.loader.exec_module(module)
    runs, seeds = getattr(module, "runs", None), getattr(module, "SEEDS", None)
    if not callable(runs):
        raise HarnessError("the experiment declares no runs", where=path, expected="runs(scale, seeds) -> list[Run]")
    if seeds is not None and (type(seeds) is not int or not 1 <= seeds <= MOST_SEEDS):
        raise HarnessError("a wrong number of training seeds", where=f"{path}: SEEDS", found=seeds, expected=f"1 to {MOST_SEEDS}")
    return Experiment(name, path, module.__doc__ or name, runs, seeds, getattr(module, "REPORT", None))


@contextlib.contextmanager
def _faults_named(path: Path, what: str) -> Iterator[None]:
    """Turns what the code of an experiment raises, but for a HarnessError, into one that names file and line."""
    try:
        yield
    except SyntaxError as error:
        file = error.filename or path
        where = f"{file}:{error.lineno}" if error.lineno else file
        raise HarnessError("the experiment does not parse", where=where, found=error.msg, expected="Python") from error
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise HarnessError(what, where=f"{path}:{lines[-1]}" if lines else path, found=cause) from error


def expand(
    name: str,
    scale: str,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    couplings: Sequence[str] = (),
    data: Sequence[str] = (),
) -> list[Run]:
    """The runs of an experiment, each id once and after the runs it needs.

    seeds: training seeds; None for the experiment's default. overrides: KEY=VALUE, applied to every run that has the key; FAST among them
    stands for the speed profile, of which the others may change single settings. couplings: FILE.py:FUNCTION; the experiment's runs with
    independent coupling are repeated with each of them. data: data sets in the place of those of the scale; of an experiment that names its
    own, the runs on these. Raises HarnessError for an unknown name, scale, key, function or data set, and for a data set of which the
    experiment has no runs.
    """
    presets.scale(scale)  # raises for an unknown one
    experiment = load(name)
    with _faults_named(experiment.path, "the experiment cannot declare its runs"), presets.of_data(data, presets.recorded()):
        runs = list(experiment.runs(scale, experiment.default_seeds(scale) if seeds is None else tuple(seeds)))
    if other := next((type(run).__name__ for run in runs if not isinstance(run, Run)), None):
        raise HarnessError("what an experiment declares is no run", where=experiment.path, found=other, expected="a list of Run")
    if data:
        runs = _on(data, runs, experiment, scale)
    needed = {need for run in runs for need in run.needs}
    for coupling in couplings:
        custom_coupling = custom(coupling)
        # A denoiser from which other runs start is not repeated.
        independent = [run for run in runs if isinstance(run.coupling, Independent)]
        cells = [run for run in independent if run.objective.kind != "denoiser" or run.id not in needed]
        if not cells:
            raise HarnessError("no run to which the coupling applies", where=experiment.path, found="no run with the independent coupling")
        runs += [run.model_copy(update={"coupling": custom_coupling}) for run in cells]
    return list(in_order(_overridden(runs, overrides) if overrides else runs).values())


def _on(data: Sequence[str], runs: Sequence[Run], experiment: Experiment, scale: str) -> list[Run]:
    """The runs on these data sets. Raises HarnessError for one that has no runs, as in an experiment about data sets of its own."""
    used = list(dict.fromkeys(run.data.name for run in runs))
    if absent := [name for name in data if name not in used]:
        for name in absent:
            presets.preset(scale, name)  # raises for one that is unknown, or does not belong to this scale
        kind = "is about data sets of its own" if not set(used) & set(data) else "takes fewer data sets"
        what, advice = f"{experiment.name} {kind}", f"--data {used[0]}" if used else None
        raise OtherData(what, where="--data", found=", ".join(data), expected=", ".join(used), nearest=advice)
    return [run for run in runs if run.data.name in data]


def topological(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The names after what they need, else in the order given; needs outside the names are ignored. Raises HarnessError for a cycle."""
    graph = {name: [need for need in wanted if need in needs] for name, wanted in needs.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise HarnessError("runs need each other in a cycle", found=" -> ".join(reversed(error.args[1])), expected="no cycle") from None


def in_order(jobs: Iterable[AnyJob]) -> dict[str, AnyJob]:
    """Jobs by id, each once: those without needs in the order given, then the others after what they need. Raises as `topological`."""
    by_id = {job.id: job for job in jobs}
    return {name: by_id[name] for name in topological({name: job.needs for name, job in by_id.items()})}


def _overridden(runs: Sequence[Run], overrides: Sequence[str]) -> list[Run]:
    """The runs with each override that has a key in them. A run still points at the runs it needs, whose ids the overrides change.

    Raises UnknownKey for an override whose key no run has.
    """
    keys = [pair.partition("=")[0] for pair in overrides]
    if twice := [key for key in keys if keys.count(key) > 1]:
        values = ", ".join(pair for pair in overrides if pair.startswith(f"{twice[0]}="))
        raise HarnessError("this key is set twice", where="--set", found=values, expected="each key once")
    fast, overrides = FAST in overrides, [pair for pair in overrides if pair != FAST]
    new_ids: dict[str, str] = {}
    overridden: list[Run] = []
    used: set[str] = set()
    refusals: dict[str, UnknownKey] = {}
    for run_id, run in in_order(runs).items():
        config = run.to_dict()
        for part, key in (("coupling", "frozen"), ("init", "ref")):
            need = (config[part] or {}).get(key)
            if need in new_ids:
                config[part][key] = new_ids[need]
        for pair in overrides:
            try:
                put(config, pair)
                used.add(pair)
            except UnknownKey as error:
                refusals[pair] = error
        if fast:
            config["train"] |= {key: value for key, value in fast_settings(config).items() if f"train.{key}" not in keys}
        overridden.append(from_dict(config, where="--set"))
        new_ids[run_id] = overridden[-1].id
    for pair, refusal in refusals.items():
        if pair not in used:
            raise refusal
    return overridden


def custom(coupling: str) -> Custom:
    """The coupling FILE.py:FUNCTION, checked without running the file."""
    file, sign, function = coupling.rpartition(":")
    if not sign or not file.endswith(".py") or not re.fullmatch(r"[A-Za-z_]\w*", function, re.ASCII) or not file.isprintable():
        raise HarnessError("a coupling needs the form FILE.py:FUNCTION", where="--coupling", found=coupling, expected="my.py:my_coupling")
    path = user_path(file, "--coupling")
    if not path.is_file():
        raise MissingFile("no such file", where="--coupling", found=file, expected="a Python file with the coupling")
    try:
        text = read_regular(path, MOST_CODE)
        defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except OSError as error:
        raise HarnessError("the coupling cannot be read", where=path, found=error.strerror, expected="a small Python file") from error
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else path
        raise HarnessError("the coupling does not parse", where=where, found=error.msg, expected="Python") from error
    except (ValueError, RecursionError, MemoryError) as error:  # bytes that are no source code, or an expression nested too deep
        raise HarnessError("the coupling does not parse", where=path, found=error or type(error).__name__, expected="Python") from error
    if function not in defined:
        raise unknown("function", function, defined or ["(none)"], where=path)
    root = project_root().resolve()
    source = path.relative_to(root) if path.is_relative_to(root) else path
    return Custom(source=f"{source.as_posix()}:{function}", sha256=hashlib.sha256(text).hexdigest())
