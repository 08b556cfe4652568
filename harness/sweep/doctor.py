"""`harness doctor`: what an experiment needs and what of it is missing, before anything is submitted, and how to fix it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console

from harness.config.baselines import Job, data_name
from harness.config.custom_data import CLASSIFIER, FEATURES_IN_WORDS
from harness.config.run import WITHIN_CLASSES, Run, skewed_classes
from harness.data.arrays import read_manifest
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.locations import data_root, project_root
from harness.store import fingerprint, stand_ins
from harness.store.git import NOT_INSTALLED, TO_ALLOW, unavailable
from harness.store.gpus import find_gpus
from harness.store.machine import NEED_GPU, cores, cpu_name, memory_gib
from harness.store.provenance import code
from harness.store.runs import Store
from harness.store.torch_loads import FIX as FIX_TORCH
from harness.store.torch_loads import torch_fault
from harness.sweep.executors import Executor, choose_executor, slurm_answers
from harness.sweep.memory import GIB, capacity_of, check_memory, gib, need, runnable
from harness.sweep.network_size import network_size
from harness.sweep.site import load_site
from harness.sweep.table import emit, render
from harness.training.compilation import FIX, compile_fault

Verdict = Literal["ok", "warn", "missing", "cannot work here"]
FATAL: tuple[Verdict, ...] = ("missing", "cannot work here")
NO_INCEPTION = "no Inception weights"
_EDM_URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
_EDM2_URL = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"


@dataclass(frozen=True)
class Finding:
    """One thing that an experiment needs, and whether it is there."""

    what: str
    verdict: Verdict
    detail: str
    fix: str = ""


def doctor(runs: Sequence[Run], store: Store, executor: Executor = "auto", full: bool = False, site: str | None = None) -> list[Finding]:
    """Everything that the runs need, each ok, warn (works, with a restriction), missing, or impossible on this machine.

    Baselines need what their runs need. full: read every byte of data sets and weights. site: the site file of the SLURM launcher, None
    for the usual places.
    """
    if executor == "auto":
        with contextlib.suppress(HarnessError):  # that SLURM does not answer is a row of the table
            executor = choose_executor(executor, store).executor
    sizes, answers = _sizes(runs), slurm_answers()
    return [
        *_versions(project_root() / "requirements.lock"),
        _commit(),
        *_stand_ins(runs),
        *(_without_torch(runs, executor, fault) if (fault := torch_fault()) else (*_data(runs, full), *_weights(runs, full))),
        *(
            Finding("pairs of a conditional model", "warn", text, WITHIN_CLASSES)
            for text in dict.fromkeys(map(skewed_classes, runs))
            if text
        ),
        _write_access(store),
        _disk(runs, store, sizes),
        _memory(runs, executor, site),
        _device(runs, executor, answers),
        *_compiler(runs),
        _scheduler(executor, answers),
        *_site(runs, executor, site),
    ]


def absent(jobs: Sequence[Job]) -> list[str]:
    """The data sets and weights that are missing, found quickly and without torch, for plans; `doctor` checks more closely."""
    missing = []
    datasets = [info(name) for name in dict.fromkeys(data_name(job) for job in jobs)]
    for dataset in datasets:
        if dataset.source:
            try:
                read_manifest(dataset, data_root())
            except HarnessError as error:
                missing.append(error.what)
    if any(dataset.needs_inception for dataset in datasets) and not any((data_root() / "weights").glob("inception-*.pt")):
        missing.append(NO_INCEPTION)
    of_classifier = [dataset.name for dataset in datasets if dataset.custom and dataset.features == "classifier"]
    missing += [f"no classifier of {name}" for name in of_classifier if not (data_root() / name / CLASSIFIER).is_file()]
    for job in jobs[:1]:  # all are of a rehearsal, or none is
        try:
            stand_ins.check(job)
        except HarnessError as error:
            missing.append(error.what)
    refs = dict.fromkeys(job.init.ref for job in jobs if isinstance(job, Run) and job.init and job.init.kind == "edm")
    return missing + [f"no EDM weights {ref}" for ref in refs if not (data_root() / "weights" / ref).is_file()]


def print_findings(findings: Sequence[Finding], console: Console) -> int:
    """Prints the findings as a table; returns the exit code, 2 if something is missing or cannot work here."""
    rows = [[finding.verdict, finding.what, finding.detail, finding.fix] for finding in findings]
    emit(console, render(["", "what", "found", "to fix it"], rows))
    counts = [f"{count} {verdict}" for verdict in FATAL if (count := sum(finding.verdict == verdict for finding in findings))]
    emit(console, f"\n{', '.join(counts)}: fix these before you start" if counts else "\nnothing is missing")
    return 2 if counts else 0


def _finding(what: str, ok: bool, detail: str, fix: str, otherwise: Verdict = "missing") -> Finding:
    return Finding(what, "ok", detail) if ok else Finding(what, otherwise, detail, fix)


def _commit() -> Finding:
    """Whether records can name the commit of the code; without it, they keep its fingerprint alone."""
    state = code()
    if state["commit"]:
        changes = ", with uncommitted changes" if state["dirty"] else ""
        return Finding("commit of the code", "ok", f"{state['commit'][:12]}{changes}")
    reason, _, allow = (unavailable() or "the checkout has no commit").partition(TO_ALLOW)
    fix = allow or ("install git" if reason == NOT_INSTALLED else "train in a git checkout with a commit")
    detail = f"{reason}; records keep the fingerprint of the code, {fingerprint.current()}"
    return Finding("commit of the code", "warn", detail, f"{fix}; needed only to publish the results with their commit")


def _versions(lock: Path) -> Iterator[Finding]:
    """Compares the installed packages with the lock of a checkout or, without one, with what the installed harness requires."""
    from packaging.requirements import Requirement

    locked = lock.is_file()
    lines = lock.read_text().splitlines() if locked else metadata.requires("consistency-harness") or []
    other = []
    for wanted in [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith(("#", "-"))]:
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed == "none" or not wanted.specifier.contains(installed.partition("+")[0], prereleases=True):
            other.append(f"{wanted.name} {installed} ({'locked' if locked else 'required'} {str(wanted.specifier).removeprefix('==')})")
    shown = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
    good = "as in requirements.lock" if locked else "as the installed harness requires"
    fix = "make setup; other versions work, but may differ in the last digits" if locked else "pip check, and install the versions it names"
    yield _finding("packages", not other, shown or good, fix, "warn" if locked else "missing")


def _without_torch(runs: Sequence[Run], executor: Executor, fault: str) -> Iterator[Finding]:
    """In place of what only torch can check."""
    yield Finding("torch", "warn" if executor == "slurm" else "cannot work here", f"cannot be loaded here: {fault}", FIX_TORCH)
    unchecked, again = "is there; its content is not checked, which needs torch", "harness doctor where torch can be loaded"
    for dataset in [info(name) for name in dict.fromkeys(run.data.name for run in runs)]:
        if dataset.source:
            try:
                read_manifest(dataset, data_root())
                yield Finding(f"data set {dataset.name}", "warn", f"the manifest {unchecked}", again)
            except HarnessError as error:
                yield Finding(f"data set {dataset.name}", "missing", error.what, str(error.details.get("nearest", dataset.fix)))
    if any(text == NO_INCEPTION for text in absent(runs)):
        yield Finding("Inception weights", "missing", NO_INCEPTION, "python -m harness.metrics.inception, where torch can be loaded")
    for name in dict.fromkeys(run.init.ref for run in runs if run.init and run.init.kind == "edm"):
        yield _edm(name, data_root() / "weights" / name, full=False)


def _stand_ins(runs: Sequence[Run]) -> Iterator[Finding]:
    """Whether the data folder is one of a rehearsal, of which real runs take nothing."""
    for run in runs[:1]:
        try:
            stand_ins.check(run)
            if run.rehearsal:
                yield Finding("data folder", "ok", f"{data_root()}: the stand-ins of a rehearsal")
        except HarnessError as error:
            yield Finding("data folder", "missing", f"{error.what}: {data_root()}", error.details["nearest"])


def _data(runs: Sequence[Run], full: bool) -> Iterator[Finding]:
    from harness.data import datasets
    from harness.metrics.baselines import why_no_heldout

    for name in dict.fromkeys(run.data.name for run in runs):
        try:
            yield Finding(f"data set {name}", "ok", datasets.verify(name, full=full).removeprefix(f"{name}: "))
            reason, fix = why_no_heldout(name)
            if reason:
                detail = f"{reason}; runs need none, but the tables will have no row of real held-out images"
                yield Finding(f"held-out images of {name}", "warn" if fix else "ok", detail, fix)
        except HarnessError as error:
            with contextlib.suppress(HarnessError):
                error.details.setdefault("nearest", info(name).fix)
            where = error.details.get("where")
            yield Finding(f"data set {name}", "missing", error.what + (f" ({where})" if where else ""), error.details.get("nearest", ""))


def _weights(runs: Sequence[Run], full: bool) -> Iterator[Finding]:
    for dataset in dict.fromkeys(info(run.data.name) for run in runs if run.data.custom):
        trained = dataset.features != "classifier" or (data_root() / dataset.name / CLASSIFIER).is_file()
        detail = FEATURES_IN_WORDS[dataset.features] + ("" if trained else "; not trained yet")
        yield _finding(f"features of {dataset.name}", trained, detail, f"{dataset.fix}, the command that prepared it")
    if any(info(run.data.name).needs_inception for run in runs):
        from harness.metrics.inception import SHA256, URL, weights_status

        path, ok, message = weights_status()
        fetch = "python -m harness.metrics.inception"
        if path.is_file():
            yield _finding("Inception weights", ok, f"{path}: {message}", f"rm {path}; {fetch}")
        else:
            detail = f"no file {path}; about 96 MB, sha256 {SHA256}"
            yield Finding("Inception weights", "missing", detail, f"{fetch}, or copy {URL} there")
    starts = {(run.init.ref, run.data, run.network): run for run in runs if run.init and run.init.kind == "edm"}
    for (name, _, _), run in starts.items():
        yield _edm(name, data_root() / "weights" / name, full, run)


def _edm(name: str, path: Path, full: bool, run: Run | None = None) -> Finding:
    """One of EDM's or EDM2's network pickles. No checksum is published, so the file's own is shown, to compare two machines.

    run: one that starts from it, whose network must not have more weights than the file holds. full: also load it, to compare every shape.
    """
    what, fix = f"EDM weights {name}", f"curl --create-dirs -o {path} {_EDM2_URL if name.startswith('edm2-') else _EDM_URL}/{name}"
    if not path.is_file():
        return Finding(what, "missing", f"no file {path}; no sha256 is published", fix)
    with path.open("rb") as file:
        detail = f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    parameters = network_size(run).parameters if run else 0
    if path.stat().st_size < 2 * parameters:  # of at least two bytes each
        return Finding(what, "missing", f"{detail}: incomplete, or a smaller network than {parameters:,} weights", f"rm {path}; {fix}")
    if full:
        import torch

        from harness.training.edm_weights import fitting, load_edm_weights
        from harness.training.model import preconditioned

        try:
            state = load_edm_weights(path)
            detail += f", {len(state)} tensors"
            if run:
                with torch.device("meta"):
                    network = preconditioned(run).model
                fitting(network, state, path)
        except HarnessError as error:
            differs = "".join(f"; {key} {error.details[key]}" for key in ("found", "expected") if key in error.details)
            return Finding(what, "missing", f"{detail}: {error.what}{differs}", f"rm {path}; {fix}")
    return Finding(what, "ok", detail)


def _write_access(store: Store) -> Finding:
    folder = store.runs
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("write access", "missing", f"{folder}: {error.strerror}", "--results FOLDER, one that you may write")
    return Finding("write access", "ok", str(folder))


def _disk(runs: Sequence[Run], store: Store, sizes: dict[str, int]) -> Finding:
    """Whether three checkpoints per run fit: two that are kept, and a third while it is being written."""
    needed = sum(sizes.get(run.id, 0) * 3 for run in runs) / GIB + 0.001 * len(runs)
    folder = next(path for path in [store.root, *store.root.resolve().parents] if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    detail = f"{free:,.1f} GiB free, about {needed:,.2f} GiB needed"
    fix = f"free {needed - free:,.1f} GiB, or --results FOLDER on a larger disk"
    return _finding("disk", free > needed, detail, fix)


def _memory(runs: Sequence[Run], executor: Executor, site: str | None) -> Finding:
    """Whether the runs fit into the memory that they will find, by estimate."""
    try:
        capacity, processes = capacity_of(executor, "auto", site)
    except HarnessError as error:
        return Finding("memory", "warn", f"not checked: {error.what}", "correct the site file")
    checked = runnable(runs, capacity)
    try:
        tight = check_memory(checked, capacity, processes)
    except HarnessError as error:
        return Finding("memory", "cannot work here", f"{error.what}: {error.details['found']}", error.details["nearest"])
    if tight:
        return Finding("memory", "warn", *tight.split(": ", 1))
    if len(checked) < len(runs) or (capacity.uses_gpu and capacity.gpu is None):
        most = max((run for run in runs if run not in checked), key=_batch_memory, default=max(runs, key=_batch_memory))
        detail = f"a GPU with about {gib(_batch_memory(most))} takes a complete batch of {most.slug} at once"
        return Finding("memory", "warn", detail, "a GPU with less does it in parts by itself, or with --micro-batch N")
    free = memory_gib()
    known = f"{gib(capacity.gpu)} of the GPU" if capacity.gpu else f"{gib(capacity.host)} of the host" if capacity.host else ""
    now = f"; {free:.1f} GiB free now" if free and executor != "slurm" else ""
    detail = f"the runs fit into {known} by estimate{now}" if known else "not known here"
    return Finding("memory", "ok" if known else "warn", detail, "" if known else "memory = GIB in the site file, for SLURM")


def _batch_memory(run: Run) -> float:
    return need(run).of_batch(uses_gpu=True)


def _device(runs: Sequence[Run], executor: Executor, answers: bool) -> Finding:
    here = find_gpus()
    if here.usable:
        names = Counter(f"{gpu.name}, {gpu.memory / GIB:.0f} GiB" for gpu in here.usable)
        other = "".join(f"; not {gpu.name}: {gpu.reason}" for gpu in here.devices if gpu.reason)
        return Finding("device", "ok", ", ".join(f"{count} x {name}" for name, count in names.items()) + other)
    unusable = f"a GPU that torch cannot use ({here.why_not})" if here.why_not else "no GPU"
    detail = f"{unusable}; {cores()} cores of {cpu_name()}"
    if not any(run.scale in NEED_GPU for run in runs):
        return Finding("device", "warn" if here.why_not else "ok", detail, here.how_to_fix)
    if executor == "slurm" and answers:
        return Finding("device", "warn", f"{detail} here; the nodes of the cluster are not checked", "ask for GPUs in the site file")
    fix = here.how_to_fix or "a machine with a GPU, or a SLURM cluster"
    return Finding("device", "cannot work here", detail, f"{fix}; --device cpu starts without, and takes very long")


def _compiler(runs: Sequence[Run]) -> Iterator[Finding]:
    """Whether torch.compile works, for runs that use it."""
    if any(run.train.compile for run in runs):
        fault = compile_fault("cuda" if find_gpus().usable else "cpu")
        detail = f"does not work here: {fault}" if fault else "works: a tiny network was compiled"
        yield _finding("torch.compile", not fault, detail, FIX, "warn")


def _scheduler(executor: Executor, answers: bool) -> Finding:
    if answers:
        return Finding("scheduler", "ok", "SLURM answers")
    if executor in ("slurm", "auto"):  # auto: the record of the results folder says SLURM
        return Finding("scheduler", "missing", "no sbatch, or sinfo fails", "--executor local, or a login node of the cluster")
    return Finding("scheduler", "ok", "none: runs start on this machine")


def _site(runs: Sequence[Run], executor: Executor, site: str | None) -> Iterator[Finding]:
    """What the SLURM launcher will request."""
    if executor != "slurm":
        return
    try:
        chosen = load_site(site)
    except HarnessError as error:
        detail = f"{error.what}: {error.details.get('found', '')} ({error.details.get('where', '')})"
        fix = str(error.details.get("nearest") or error.details.get("expected") or "correct that line")
        yield Finding("site file", "missing", detail, fix)
        return
    enough = bool(chosen.gpus) or not any(run.scale in ("fashion", "paper") for run in runs)
    detail = chosen.describe() + ("" if enough else ": no GPU")
    yield _finding("site file", enough, detail, "gpus = 1 in site.toml, with the partition that has them")


def _sizes(runs: Sequence[Run]) -> dict[str, int]:
    """Bytes of each run's checkpoint, by id: weights, EMA and the optimizer's moments, in float32."""
    sizes = {}
    for run in runs:
        with contextlib.suppress(HarnessError):  # an unknown data set has its own row
            sizes[run.id] = 4 * network_size(run).parameters * (3 if run.train.optimizer == "lion" else 4)
    return sizes
