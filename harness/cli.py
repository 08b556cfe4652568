"""The command line: one tree of parsers. Commands import what they need when they run, so that help, plan and status start at once."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from harness.commands import benchmark
from harness.commands.serving import HOST, PORT
from harness.config.micro_batch import choose_rows
from harness.config.parts import FEATURES, SCALE_NAMES
from harness.config.selection import DEFAULT_SCALE, parse_data, parse_seeds
from harness.config.speed import FAST
from harness.config.watching import choose_watchers
from harness.errors import HarnessError, nearest, printable, unknown
from harness.locations import user_folder, user_path
from harness.store.account import complete_environment
from harness.store.machine import DEVICES, check_device
from harness.store.records import RECORD_SETS
from harness.sweep.options import EXECUTORS, POLICIES
from harness.theory.studies import STUDIES

INTERRUPTED = 130
PERMISSIONS = "check the path, its permissions and the space that is left, then start again"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Bad input: a message on stderr and 2. Ctrl-C: 130."""
    complete_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows a code instead of ±, and ends nothing
    try:
        arguments = build_parser().parse_args(argv)
        if (rows := getattr(arguments, "micro_batch", None)) is not None:
            choose_rows(rows)
        if texts := getattr(arguments, "log", None):
            choose_watchers(texts)
        return int(arguments.command(arguments))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head or less, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:  # a fault of the program, not of a file
            raise
        print(HarnessError(f"cannot be used: {error.strerror}", where=error.filename, nearest=PERMISSIONS), file=sys.stderr)
        return HarnessError.exit_code


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line like any other bad input: a HarnessError with the nearest choice."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; raises HarnessError for arguments that this parser does not know."""
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [option for action in self._actions for option in action.option_strings if rest[0].startswith("-")]
            close = nearest(rest[0].partition("=")[0], options) or f"{self.prog} --help"
            raise HarnessError("no such argument", where=self.prog, found=rest[0], nearest=close)
        return namespace, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = str(action.metavar or action.dest).lower()
            raise unknown(kind, value, action.choices, where=action.option_strings[0] if action.option_strings else self.prog)

    def error(self, message: str) -> NoReturn:
        raise HarnessError(message, where=self.prog, nearest=f"{self.prog} --help")


def _argument(*names: str, **options: Any) -> Callable[[Parser], object]:
    """Adds an argument to a parser, with the names and options of argparse."""
    return lambda parser: parser.add_argument(*names, **options)


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """A function of harness.commands, named as "module.function"; its module is imported when the command runs."""
    module, _, function = name.partition(".")

    def run(arguments: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"harness.commands.{module}"), function)(arguments))

    return run


def _experiment(text: str) -> str:
    """The experiment's file name: sweep-mu is sweep_mu."""
    from harness.config import experiments

    return next((name for name in (text, text.replace("-", "_")) if name in experiments.names()), text)


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _count(text: str, where: str) -> int:
    """A whole number that is not negative. where: the option. Raises HarnessError for anything else."""
    if not text.isdecimal() or len(text) > 9:
        raise HarnessError("not a count", where=where, found=printable(text, 60), expected="a whole number below a billion, such as 3")
    return int(text)


def _levels(text: str, where: str = "--t") -> tuple[float, ...]:
    """Noise levels separated by commas. Raises HarnessError for what is not a number."""
    try:
        return tuple(float(part) for part in _words(text))
    except ValueError:
        raise HarnessError("noise levels are numbers", where=where, found=text, expected="1,5,20") from None


FILE = "a file of experiments/, without .py"
EXPERIMENT = _argument("experiment", type=_experiment, metavar="EXPERIMENT", help=FILE)
EXPERIMENT_OR_ALL = _argument("experiment", type=_experiment, metavar="EXPERIMENT", help=f"{FILE}, or all")
ANY_EXPERIMENT = _argument("experiment", type=_experiment, metavar="EXPERIMENT", nargs="?", help=f"{FILE}; by default everything")
FOLDER = "the results folder; default $HARNESS_RESULTS or results/"
RESULTS = _argument("--results", type=partial(user_folder, where="--results"), metavar="DIR", help=FOLDER)
SCALE = _argument("--scale", choices=SCALE_NAMES, help=f"default {DEFAULT_SCALE}; for a report of everything, all that have records")
DATA_HELP = "data sets in the place of the scale's own: sets that you have prepared, or some of the scale's"
DATA = _argument("--data", type=parse_data, metavar="NAME[,NAME]", help=DATA_HELP)
SEEDS = _argument("--seeds", type=parse_seeds, metavar="N|A,B,...", help="a count (3: seeds 0, 1, 2) or a list (0,4 or 7,)")
SET_HELP = "change a key of every run that has it; `harness config` lists the keys"
SET = _argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
FAST_HELP = "train with the speed profile: other runs, with the settings that `harness config` lists under --fast"
FAST_PROFILE = _argument("--fast", dest="set", action="append_const", const=FAST, help=FAST_HELP)
COUPLING_HELP = "add a coupling of your own to the experiment"
COUPLING = _argument("--coupling", action="append", default=[], metavar="FILE.py:FUNCTION", help=COUPLING_HELP)
TRUST_HELP = "execute the coupling file that the run names; read it first if the run comes from somebody else"
TRUST = _argument("--trust", action="store_true", help=TRUST_HELP)
SELECTION = RESULTS, SCALE, DATA, SEEDS, SET, FAST_PROFILE, COUPLING
RECORDS_HELP = "own: of runs made here; published: of results/published; both: pooled; default: own, published if there are none"
RECORDS = _argument("--records", choices=RECORD_SETS, help=RECORDS_HELP)
OUTPUT_HELP = "where to write tables, figures, the page and measurements; default the results folder, or report-output/ if it is read-only"
OUTPUT = _argument("--output", type=partial(user_folder, where="--output"), metavar="DIR", help=OUTPUT_HELP)
REHEARSAL_OUTPUT_HELP = "a new or empty folder for all of it; default rehearsals/<experiment>-<scale>-<time> in the results folder"
SMOKE_HELP = "a smoke test: all runs for a few steps, then the complete report, in a folder of its own; nothing of it is a result"
SMOKE_OUTPUT_HELP = "with --smoke: a new or empty folder; default smoke-tests/<experiment>-<scale>-<time> in the results folder"
REHEARSAL_MEMORY_HELP = "what one run may take at most on the host; default 10, or what is free; a network that needs more is narrowed"
POLICY_HELP = (
    "retry-failed: start failed runs again; retrain-other-code: also train finished runs again that other code made; "
    "force: start every run again; read-only: start nothing. Old results are kept in old-<n>"
)
POLICY = _argument("--policy", choices=POLICIES, default="default", help=POLICY_HELP)
DEVICE_HELP = "default auto: a GPU that torch can use, or the CPU; the fashion and paper scales use the CPU only if asked"
DEVICE = _argument("--device", type=check_device, metavar="|".join(DEVICES), default="auto", help=DEVICE_HELP)
EXECUTOR_HELP = "inline: one run after the other; local: a pool of processes; default auto: SLURM if it answers, else local"
MICRO_HELP = "rows that go through the networks at once, for GPUs with less memory; the result is the same up to rounding"
MICRO_BATCH = _argument("--micro-batch", type=partial(_count, where="--micro-batch"), metavar="N", help=MICRO_HELP)
LOG_HELP = "show the training to tensorboard, to wandb, or to a class of your own; several times for several"
LOG = _argument("--log", action="append", metavar="tensorboard|wandb|FILE.py:CLASS", help=LOG_HELP)
LAUNCHER = (
    _argument("--executor", choices=EXECUTORS, default="auto", help=EXECUTOR_HELP),
    MICRO_BATCH,
    LOG,
    _argument("--workers", type=int, metavar="N", help="runs at the same time; default: as many as the machine can carry"),
    _argument("--site", type=partial(user_path, where="--site"), metavar="FILE.toml", help="partition, account, GPUs and so on for SLURM"),
)
QUIET = _argument("--quiet", action="store_true", help="do not print the plan")
NO_WAIT = _argument("--no-wait", dest="wait", action="store_false", help="on SLURM: submit and return, do not watch")
SWEEP = *SELECTION, POLICY, DEVICE, *LAUNCHER, QUIET, NO_WAIT

BENCH = (
    _argument("--only", metavar="PART,...", help=f"parts to measure: {', '.join(benchmark.PARTS)}; default all"),
    _argument("--shapes", metavar="SHAPE[:BATCH],...", help=f"training steps: {benchmark.SHAPES_HELP}; default {benchmark.SHAPES}"),
    _argument("--profiles", metavar="NAME,...", help=benchmark.PROFILES_HELP),
    _argument("--seconds", type=float, metavar="S", help="of each comparison, without compilation; default 4, or 1 with --quick"),
    _argument("--quick", action="store_true", help="fewer and smaller measurements of the digits scale, in under a minute"),
    _argument("--json", type=partial(user_path, where="--json"), metavar="FILE", help="default bench/<time>.json in the results folder"),
    _argument("--compare", nargs="+", type=partial(user_path, where="--compare"), metavar="OLD.json", help=benchmark.COMPARE_HELP),
)

TIMES_HELP = "noise levels of the further steps, in descending order, instead of those of the run's evaluation.times"
EXPORT = (
    _argument("--samples", type=partial(_count, where="--samples"), metavar="N", help="the number of samples"),
    _argument("--to", type=partial(user_path, where="--to"), metavar="DIR|FILE.npz", help="of images; FILE.npz or FILE.npy of points"),
    _argument("--steps", type=partial(_count, where="--steps"), metavar="K", help="evaluations of the network for a sample; default 1"),
    _argument("--times", type=partial(_levels, where="--times"), metavar="T,T,...", help=TIMES_HELP),
    _argument("--balanced", action="store_true", help="of a conditional model: the classes in turn; default as its protocol says"),
    _argument("--seed", type=partial(_count, where="--seed"), metavar="N", help="of the noise; default 0, as the run's own evaluation"),
    _argument("--weights", type=partial(user_path, where="--weights"), metavar="FILE.safetensors", help="where to write the weights"),
    _argument("--which", choices=("ema", "online"), help="the moving average of the weights (default), or the weights in training"),
    _argument("--overwrite", action="store_true", help="replace files, and folders of earlier exports"),
)

LABELS_HELP = "of your own images: classes from the names of folders or a CSV file of image, class; default those in an npz or Parquet"
HELDOUT_HELP = "of your own images: how many are held out at random, each class in its share; default 10%%"
FEATURES_HELP = "what measures your own images; default Inception if its weights are there, from 32 pixels, else random"
FROM_HELP = "the archive or folder; of your own images a folder, zip, npz or Parquet"
OWN_IMAGES = (
    _argument("--size", type=partial(_count, where="--size"), metavar="S", help="of your own images: pixels per side"),
    _argument("--labels", metavar="from-folders|FILE.csv|none", help=LABELS_HELP),
    _argument("--heldout", metavar="10%|N", help=HELDOUT_HELP),
    _argument("--channels", type=int, choices=(1, 3), metavar="1|3", help="of your own images: grey or RGB; default grey if all are grey"),
    _argument("--features", choices=FEATURES, help=FEATURES_HELP),
)


FEATURE_NETWORKS_HELP = (
    "measure the metrics of samples also by inception, dinov2, clip or a class of your own (docs/features.md); several times for several"
)
FEATURE_NETWORKS = _argument("--features", action="append", default=[], metavar="NAME|FILE.py:CLASS", help=FEATURE_NETWORKS_HELP)


def build_parser() -> Parser:
    """The parser of `harness`; the namespace it returns holds `command`, a function from the namespace to an exit code."""
    parser = Parser(prog="harness", description="Re-runs, measures and judges consistency training with generator-augmented flows.")
    version = _command("basic.version")
    parser.add_argument("--version", dest="command", action="store_const", const=version, help="print the versions and exit")
    parser.set_defaults(command=lambda arguments: _help(parser), seeds=None, set=[], coupling=[], data=None, output=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: str, text: str, *arguments: Callable[[Parser], object]) -> Parser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        for add_argument in arguments:
            add_argument(sub)
        sub.set_defaults(command=_command(command))
        return sub

    text = "plan, train, measure and report one experiment, or all; the same command again continues"
    reproduce = add("reproduce", "reproduce.reproduce", text, EXPERIMENT_OR_ALL, *SWEEP, RECORDS, FEATURE_NETWORKS)
    reproduce.add_argument("--smoke", action="store_true", help=SMOKE_HELP)
    reproduce.add_argument("--output", type=partial(user_folder, where="--output"), metavar="DIR", help=SMOKE_OUTPUT_HELP)
    add("plan", "sweeps.plan", "show what a sweep would do to each run, why, and what it costs", EXPERIMENT, *SELECTION, POLICY, DEVICE)
    add("sweep", "sweeps.sweep", "carry out the plan; the same command again continues", EXPERIMENT, *SWEEP)
    run = add("run", "sweeps.run", "carry out one run here, with its output in the terminal", *SELECTION, DEVICE, TRUST, MICRO_BATCH, LOG)
    run.add_argument("run", metavar="RUN", help="a run folder, or the beginning of a run's name or hash")
    run.add_argument("--experiment", type=_experiment, help="search the runs of this experiment, including those not begun")
    status = add("status", "sweeps.status", "show the state, progress and last FID or W2 of runs", ANY_EXPERIMENT, *SELECTION)
    status.add_argument("--watch", action="store_true", help="refresh until every run is done or failed")
    text = "show status, curves, samples and logs of runs in a browser; the page refreshes itself"
    serve = add("serve", "serving.serve", text, ANY_EXPERIMENT, *SELECTION)
    port = partial(_count, where="--port")
    serve.add_argument("--port", type=port, default=PORT, metavar="N", help=f"default {PORT}; 0 for any free one")
    serve.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"default {HOST}, which only this machine can reach")
    clear = add("clear", "sweeps.clear", "remove runs and all their results; asks first", RESULTS)
    clear.add_argument("runs", nargs="+", metavar="RUN", help="beginnings of names or hashes")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    text = "try every step of every kind of run for a few training steps, on stand-ins for data and weights that are not here"
    rehearse = add("rehearse", "rehearsing.rehearse", text, EXPERIMENT, *SELECTION, DEVICE)
    rehearse.add_argument("--output", type=partial(user_folder, where="--output"), metavar="DIR", help=REHEARSAL_OUTPUT_HELP)
    rehearse.add_argument("--memory", type=float, metavar="GIB", help=REHEARSAL_MEMORY_HELP)
    text = "train finished or published runs again with today's code and compare their records bit for bit"
    verify = add("verify", "verifying.verify", text, RESULTS, DEVICE, *LAUNCHER)
    verify.add_argument("targets", nargs="+", metavar="SCALE|RUN", help="all runs of a scale, or beginnings of runs' names or hashes")
    text = "convert an official archive, or images of your own, to the arrays that training reads; once per data set"
    prepare = add("prepare", "basic.prepare", text)
    prepare.add_argument("data", metavar="NAME", help="a data set of the catalogue, or a new name for images of your own")
    prepare.add_argument("--recipe", help="how images are resized; by default the data set's own recipe, or square-lanczos")
    prepare.add_argument("--partial", action="store_true", help="accept a part of the archive, without the check against published numbers")
    for add_argument in OWN_IMAGES:
        add_argument(prepare)
    count, text = partial(_count, where="--skip-damaged"), "leave out up to N damaged images, and record which"
    prepare.add_argument("--skip-damaged", type=count, default=0, metavar="N", help=text)
    prepare.add_argument("--from", dest="source", type=partial(user_path, where="--from"), required=True, metavar="PATH", help=FROM_HELP)
    prepare.add_argument(
        "--root", type=partial(user_folder, where="--root"), metavar="DIR", help="the data folder; default $HARNESS_DATA or data/"
    )
    doctor = add(
        "doctor", "sweeps.doctor", "list what the runs need, what is missing, and how to fix it", EXPERIMENT, *SELECTION, *LAUNCHER
    )
    doctor.add_argument("--full", action="store_true", help="read every byte of data sets and weights")
    text = f"measure a study ({', '.join(STUDIES)}), the runs of an experiment by further feature networks, or one finished run"
    measure = add("measure", "studies.measure", text, *SELECTION, DEVICE, TRUST, OUTPUT)
    help_of_target = "one of these, a run folder, or the beginning of a run's name or hash"
    measure.add_argument("target", metavar="STUDY|EXPERIMENT|RUN", help=help_of_target)
    text = (
        "for a run: discrepancy, transport, proxy, metrics (FID and so on, again), ema (averages of other lengths); default "
        "discrepancy,transport"
    )
    measure.add_argument("--what", type=_words, metavar="A,B", help=text)
    FEATURE_NETWORKS(measure)
    text = "not for a study: the step of a kept checkpoint (--set keep_steps=[1000] keeps that of step 1000); default the last one"
    measure.add_argument("--step", type=partial(_count, where="--step"), metavar="N", help=text)
    measure.add_argument("--t", type=_levels, metavar="T,T,...", help="noise levels, instead of the study's own")
    text = "measure how far from this machine's limit training, evaluation and commands are, as ratios of calls that alternate"
    bench = add("bench", "benchmark.bench", text, DEVICE)
    for add_argument in BENCH:
        add_argument(bench)
    text = "redraw tables, figures and verdicts from records; nothing is trained"
    report = add("report", "reports.report", text, ANY_EXPERIMENT, *SELECTION, RECORDS, OUTPUT)
    text = "side by side: two scales, own and published, or two results folders"
    report.add_argument("--compare", nargs=2, metavar=("A", "B"), help=text)
    report.add_argument("--tensorboard", action="store_true", help="write the curves as TensorBoard event files")
    why = add("why", "reports.why", "name the runs, commits, commands and records behind a number of a table", EXPERIMENT, RESULTS, RECORDS)
    why.add_argument("scale", choices=SCALE_NAMES, metavar="SCALE", help=", ".join(SCALE_NAMES))
    why.add_argument("model", metavar="MODEL", help="ic, ot, gc-0.5, ... or the beginning of one")
    why.add_argument("metric", metavar="METRIC", help="fid, kid, is, w2, recall, ...")
    why.add_argument("--data", type=parse_data, metavar="NAME", help="the data set, if the scale has several, or one of your own")
    text = "write the small records of finished runs that are to be committed"
    publish = add("publish", "reports.publish", text, EXPERIMENT, SCALE, DATA, RESULTS)
    publish.add_argument(
        "--to", type=partial(user_folder, where="--to"), metavar="DIR", help="where to publish; default the results folder"
    )
    publish.add_argument("--replace", action="store_true", help="publish runs even if fewer of their records are left than are published")
    text = "publish runs whose code or experiment is in no commit of this repository; their entry says so"
    publish.add_argument("--allow-uncommitted", action="store_true", help=text)
    text = "write samples of a finished run, as images or arrays, or its weights with a model card; no code of the run is executed"
    export = add("export", "exporting.export", text, RESULTS, DEVICE)
    export.add_argument("run", metavar="RUN", help="a run folder, the beginning of a run's name or hash, or exported weights")
    for add_argument in EXPORT:
        add_argument(export)
    new = add("new", "new.new", "write the commented file of an experiment of your own, whose table and figures come by themselves")
    new.add_argument("kind", choices=("experiment",), metavar="experiment", help="what to write")
    new.add_argument("name", metavar="NAME", help="its name, which is that of its file in experiments/")
    keys = add("config", "config.config", "list the keys of a run: type, default, the paper's value, meaning")
    keys.add_argument("key", nargs="?", metavar="KEY", help="one key (train.lr) or one group of keys (train)")
    help_ = add("help", "", "show the help of a command")
    help_.set_defaults(command=lambda arguments: _help(commands.choices.get(arguments.topic, parser)))
    help_.add_argument("topic", nargs="?", choices=list(commands.choices), metavar="COMMAND", help="all commands by default")
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0
