"""The command line. Every command imports what it needs when it runs, so that plan and status start at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.arguments import Parser, seeds
from harness.config.run import SCALE_NAMES
from harness.errors import HarnessError, nearest
from harness.store.machine import DEVICES, choose_device

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.run import Run
    from harness.store.runs import RunFolder, Store

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Bad input: a message on stderr and 2. Ctrl-C: 130."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = build_parser()
        arguments, rest = parser.parse_known_args(argv)
        if rest and not arguments.passes_on:
            arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if getattr(arguments, "results", None):
            os.environ["HARNESS_RESULTS"] = str(arguments.results.resolve())
        return arguments.command(arguments, rest)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, head or less, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> Parser:
    parser = Parser(prog="harness", description="Re-runs, measures and judges consistency training with generator-augmented flows.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Callable, text: str, *parts: Callable[[Parser], None], passes_on: bool = False) -> Parser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, add_help=not passes_on)
        for part in parts:
            part(sub)
        sub.set_defaults(command=command, parser=sub, passes_on=passes_on)
        return sub

    add("plan", _plan, "show what a sweep would do to each run, why, and what it costs", _experiment, _selection, _policy, _device)
    sweep = add("sweep", _sweep, "do the plan; the same command again continues", _experiment, _selection, _policy, _device, _launcher)
    sweep.add_argument("--quiet", action="store_true", help="leave the plan out")
    sweep.add_argument("--no-wait", dest="wait", action="store_false", help="on SLURM: submit and return, do not watch")
    run = add("run", _run, "run one run here, output to the terminal", _selection, _device)
    run.add_argument("run", help="a run folder, or the beginning of its name or hash")
    run.add_argument("--experiment", help="look for the run among those of this experiment, begun or not")
    status = add("status", _status, "state, progress and last FID of runs", _optional_experiment, _selection)
    status.add_argument("--watch", action="store_true", help="show it anew until all runs are settled")
    clear = add("clear", _clear, "remove runs and all their results; asks first", _results)
    clear.add_argument("runs", nargs="+", metavar="RUN", help="beginnings of names or hashes")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    prepare = add("prepare", _prepare, "turn an official archive into the arrays that training reads; once")
    prepare.add_argument("data", metavar="NAME", help="the data set")
    prepare.add_argument("--recipe", help="how images are brought to size; the data set's own by default")
    prepare.add_argument("--partial", action="store_true", help="take a part of the archive, unchecked against the published numbers")
    prepare.add_argument("--from", dest="source", type=Path, required=True, metavar="PATH", help="the archive or folder")
    prepare.add_argument("--root", type=Path, metavar="DIR", help="the data folder; default $HARNESS_DATA or data/")
    doctor = add("doctor", _doctor, "list what is missing before anything is started", _experiment, _selection, _launcher)
    doctor.add_argument("--full", action="store_true", help="read every byte of data sets and weights")
    measure = add("measure", _measure, "measure a study (figure1, figure2, figure3, theory) or one finished run", _selection, _device)
    measure.add_argument("target", metavar="STUDY|RUN", help="a study, a run folder, or the beginning of a run's name or hash")
    text = "of a run: discrepancy, transport, proxy; default discrepancy,transport"
    measure.add_argument("--what", type=_words, default=["discrepancy", "transport"], metavar="A,B", help=text)
    measure.add_argument("--t", type=_levels, metavar="T,T,...", help="noise levels, instead of the study's own")
    bench = add("bench", _bench, "ratios of speeds on this machine: GC and batch-OT beside IC, and what makes steps fast", _device)
    bench.add_argument("--scale", choices=SCALE_NAMES, default="digits", help="default digits")
    bench.add_argument("--seconds", type=float, default=30.0, help="how long the rounds go on; default 30")
    add("report", _report, "redraw tables and figures from the records at hand", passes_on=True)
    add("why", _why, "name the runs, commits, commands and records behind a number", passes_on=True)
    add("publish", _publish, "write the small records of finished runs, to be committed", passes_on=True)
    return parser


def _experiment(parser: Parser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a file of experiments/, without .py")


def _optional_experiment(parser: Parser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help="a file of experiments/, without .py; all runs by default")


def _results(parser: Parser) -> None:
    parser.add_argument("--results", type=Path, metavar="DIR", help="the results folder; default $HARNESS_RESULTS or results/")


def _selection(parser: Parser) -> None:
    _results(parser)
    parser.add_argument("--scale", choices=SCALE_NAMES, default="digits", help="default digits")
    parser.add_argument("--seeds", type=seeds, metavar="N|A,B,...", help="a count (3: seeds 0, 1, 2) or a list (0,4 or 7,)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter of every run that has it")
    parser.add_argument(
        "--coupling", action="append", default=[], metavar="FILE.py:FUNCTION", help="add a coupling of your own to the experiment"
    )


def _policy(parser: Parser) -> None:
    policies = ("default", "retry-failed", "force", "read-only")
    text = "retry-failed: start failed runs again; force: start all anew and keep the old results; read-only: start nothing"
    parser.add_argument("--policy", choices=policies, default="default", help=text)


def _device(parser: Parser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _launcher(parser: Parser) -> None:
    parser.add_argument("--executor", choices=("auto", "inline", "local", "slurm"), default="auto", help="auto: SLURM where it answers")
    parser.add_argument("--workers", type=int, metavar="N", help="processes at once; default: as many as the machine carries")
    parser.add_argument("--site", type=Path, metavar="FILE.toml", help="partition, account, GPUs and so on for SLURM")


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _levels(text: str) -> tuple[float, ...]:
    """Noise levels with commas. Raises HarnessError for what is no number."""
    try:
        return tuple(float(part) for part in _words(text))
    except ValueError:
        raise HarnessError("noise levels are numbers", where="--t", found=text, expected="1,5,20") from None


def _console() -> Console:
    from rich.console import Console

    return Console()


def _store() -> Store:
    from harness.store.runs import Store

    return Store()


def _runs(arguments: argparse.Namespace, name: str | None = None) -> list[Run]:
    from harness.config.experiments import expand

    return expand(name or arguments.experiment, arguments.scale, arguments.seeds, arguments.set, arguments.coupling)


def _plan(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.sweep.plan import make_plan, print_plan
    from harness.sweep.slurm_queue import liveness

    runs, console, store = _runs(arguments), _console(), _store()
    plan = make_plan(runs, store, arguments.policy, device=arguments.device, alive=liveness(store))
    print_plan(plan, console, arguments.experiment)
    if missing := _missing(runs):
        console.print(f"\nmissing: {'; '.join(missing)}. How to mend it: {_doctor_command(arguments)}", soft_wrap=True, highlight=False)
    return 0


def _sweep(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.sweep.launch import Options, launch
    from harness.sweep.plan import make_plan, print_plan
    from harness.sweep.slurm_queue import liveness

    store, console = _store(), _console()
    plan = make_plan(_runs(arguments), store, arguments.policy, device=arguments.device, alive=liveness(store))
    if not arguments.quiet:
        print_plan(plan, console, arguments.experiment)
    if missing := _missing([row.run for row in plan.active]):
        raise HarnessError("not everything is there that the runs need", found="; ".join(missing), nearest=_doctor_command(arguments))
    site = arguments.site and str(arguments.site)
    options = Options(arguments.executor, arguments.workers, arguments.device, site=site, wait=arguments.wait)
    return launch(plan, store, options, console).exit_code


def _missing(runs: Sequence[Run]) -> list[str]:
    from harness.sweep.doctor import absent

    return absent(runs)


def _doctor_command(arguments: argparse.Namespace) -> str:
    return f"harness doctor {arguments.experiment} --scale {arguments.scale}"


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.training import job

    folder = _chosen(arguments)
    device = choose_device(arguments.device)
    print(folder.path, flush=True)
    return job.main([str(folder.path), "--device", device])


def _chosen(arguments: argparse.Namespace) -> RunFolder:
    """The run folder that is meant: a path, a run of an experiment (made if it is new), or a stored run."""
    from harness.store.runs import RunFolder

    store = _store()
    if (Path(arguments.run) / "config.json").is_file():
        return RunFolder(Path(arguments.run))
    if not arguments.experiment:
        return store.find(arguments.run)
    runs = {run.id: run for run in _runs(arguments)}
    matching = [name for name in runs if name.startswith(arguments.run) or name.rsplit("-", 1)[-1].startswith(arguments.run)]
    if len(matching) != 1:
        what = "more than one run begins like this" if matching else "no run of the experiment begins like this"
        expected = "one of " + ", ".join((matching or list(runs))[:9])
        raise HarnessError(what, where=arguments.experiment, found=arguments.run, expected=expected, nearest=nearest(arguments.run, runs))
    return RunFolder.create(store.root, matching[0], runs[matching[0]].to_dict())


def _status(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.sweep.status import status, table, watch
    from harness.sweep.table import emit

    store, console = _store(), _console()
    runs = _runs(arguments) if arguments.experiment else None
    if arguments.watch:
        watch(store, runs, console, arguments.experiment or "")
    else:
        emit(console, table(status(store, runs), arguments.experiment or ""))
    return 0


def _clear(arguments: argparse.Namespace, rest: list[str]) -> int:
    store = _store()
    folders = list({folder.id: folder for folder in map(store.find, arguments.runs)}.values())
    for folder in folders:
        print(f"{folder.path}  {folder.state()}  {folder.size() / 1e6:.1f} MB")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise HarnessError("clear asks before it removes anything", where="harness clear", found="no terminal to ask", nearest="--yes")
        if input(f"remove these {len(folders)} runs and all their results? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 1
    for folder in folders:
        folder.delete()
    print(f"{len(folders)} removed")
    return 0


def _prepare(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.data.prepare import prepare

    print(prepare(arguments.data, arguments.source, arguments.root, recipe=arguments.recipe, official=not arguments.partial))
    return 0


def _doctor(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.sweep.doctor import doctor, print_checks

    site = arguments.site and str(arguments.site)
    return print_checks(doctor(_runs(arguments), _store(), arguments.executor, arguments.full, site), _console())


def _measure(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.commands.measure import run_one, run_study
    from harness.store.runs import RunFolder
    from harness.theory.studies import STUDIES
    from harness.theory.studies.common import Setting
    from harness.training.devices import torch_device

    store, console = _store(), _console()
    device = torch_device(arguments.device)
    if arguments.target in STUDIES:
        runs = _runs(arguments, arguments.target)
        return run_study(arguments.target, Setting(arguments.scale, store, runs, device, arguments.t), console)
    path = Path(arguments.target)
    folder = path if (path / "config.json").is_file() else store.find(arguments.target).path
    scale = RunFolder(folder).config()["scale"]
    return run_one(folder, arguments.what, Setting(scale, store, (), device, arguments.t), console)


def _bench(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.bench import bench
    from harness.training.devices import torch_device

    return bench(arguments.scale, torch_device(arguments.device), _console(), arguments.seconds)


def _report(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness import report

    return report.main(rest) or 0


def _why(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.reporting import why

    return why.main(rest)


def _publish(arguments: argparse.Namespace, rest: list[str]) -> int:
    from harness.reporting import publish

    return publish.main(rest)


if __name__ == "__main__":
    sys.exit(main())
