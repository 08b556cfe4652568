"""`harness doctor`: what is missing for an experiment, found before anything is submitted, and how to mend it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console

from harness.config.run import Custom, Run
from harness.errors import HarnessError
from harness.locations import project_root
from harness.store.machine import cores, cpu_name, device_kind, gpus, memory_gib
from harness.store.runs import Store
from harness.sweep.launch import slurm_answers
from harness.sweep.site import load_site
from harness.sweep.table import emit, render

Verdict = Literal["ok", "warn", "missing"]
GIB = 2**30
_INCEPTION_SIZE = "about 96 MB"  # 23.9 million float32 parameters
_EDM_URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
_TORCH_GIB = 1.0
"""Memory of a process that has done nothing but import torch and its first step, in GiB."""


@dataclass(frozen=True)
class Check:
    """One thing an experiment needs."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


def doctor(runs: Sequence[Run], store: Store, executor: str = "auto", full: bool = False, site: str | None = None) -> list[Check]:
    """Everything the runs need, each ok, warn (works, but read it) or missing. full: read every byte of data sets and weights.

    site: the site file of the SLURM launcher, if it is not where it is looked for.
    """
    sizes = {run.id: size for run, size in _sizes(runs)}
    return [
        *_versions(project_root() / "requirements.lock"),
        *_data(runs, full),
        *_weights(runs, full),
        *_couplings(runs),
        _write_access(store),
        _disk(runs, store, sizes),
        _memory(runs, sizes),
        _device(runs, executor),
        _scheduler(executor),
        *_site(runs, executor, site),
    ]


def absent(runs: Sequence[Run]) -> list[str]:
    """Data sets and weights that are not there, in a moment and without torch; `doctor` looks closer. For plans."""
    from harness.data.arrays import read_manifest
    from harness.data.catalogue import info
    from harness.locations import data_root

    found = []
    for item in [info(name) for name in dict.fromkeys(run.data.name for run in runs)]:
        if item.source:
            try:
                read_manifest(item, data_root())
            except HarnessError as error:
                found.append(error.what)
    if any(info(run.data.name).source for run in runs) and not any((data_root() / "weights").glob("inception-*.pt")):
        found.append("no Inception weights")
    refs = dict.fromkeys(run.init.ref for run in runs if run.init and run.init.kind == "edm")
    return found + [f"no EDM weights {ref}" for ref in refs if not (data_root() / "weights" / ref).is_file()]


def print_checks(checks: Iterable[Check], console: Console) -> int:
    """The checks as a table; returns the exit code, 2 if something needed is missing."""
    checks = list(checks)
    emit(console, render(["", "what", "found", "to mend it"], [[check.verdict, check.what, check.found, check.mend] for check in checks]))
    missing = sum(check.verdict == "missing" for check in checks)
    emit(console, f"\n{missing} missing: mend these before you start" if missing else "\nnothing is missing")
    return 2 if missing else 0


def _versions(lock: Path) -> Iterator[Check]:
    if not lock.is_file():
        yield Check("packages", "warn", f"no {lock}", "make setup in the project's folder")
        return
    from packaging.requirements import Requirement

    other = []
    for line in lock.read_text().splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "-")):
            continue
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not wanted.specifier.contains(found.partition("+")[0], prereleases=True):
            other.append(f"{wanted.name} {found} (locked {str(wanted.specifier).removeprefix('==')})")
    shown = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
    if other:
        yield Check("packages", "warn", shown, "make setup; other versions work, but may differ in the last digits")
    else:
        yield Check("packages", "ok", "as in requirements.lock")


def _data(runs: Sequence[Run], full: bool) -> Iterator[Check]:
    from harness.data import datasets
    from harness.data.catalogue import info

    for name in dict.fromkeys(run.data.name for run in runs):
        try:
            yield Check(f"data set {name}", "ok", datasets.verify(name, full=full).removeprefix(f"{name}: "))
        except HarnessError as error:
            with contextlib.suppress(HarnessError):
                error.details.setdefault("nearest", info(name).fix)
            where = error.details.get("where")
            yield Check(f"data set {name}", "missing", error.what + (f" ({where})" if where else ""), error.details.get("nearest", ""))


def _weights(runs: Sequence[Run], full: bool) -> Iterator[Check]:
    from harness.data.catalogue import info
    from harness.locations import data_root
    from harness.metrics.extractors import EMBEDDED

    if any(run.data.name not in EMBEDDED and len(info(run.data.name).shape) == 3 for run in runs):
        from harness.metrics.inception import SHA256, URL, weights_status

        path, ok, message = weights_status()
        if ok:
            yield Check("Inception weights", "ok", f"{path}: {message}")
        else:
            gone = f"nothing at {path}; {_INCEPTION_SIZE}, sha256 {SHA256}"
            fetch = "python -m harness.metrics.inception"
            mend = f"{fetch}, or bring {URL} there" if not path.is_file() else f"rm {path}; {fetch}"
            yield Check("Inception weights", "missing", message if path.is_file() else gone, mend)
    for name in dict.fromkeys(run.init.ref for run in runs if run.init and run.init.kind == "edm"):
        yield _edm(name, data_root() / "weights" / name, full)


def _edm(name: str, path: Path, full: bool) -> Check:
    """EDM's network pickles, for which no checksum is published: told, so that two machines can be compared; full: read as well."""
    what, mend = f"EDM weights {name}", f"curl --create-dirs -o {path} {_EDM_URL}/{name}"
    if not path.is_file():
        return Check(what, "missing", f"nothing at {path}; no sha256 is published", mend)
    with path.open("rb") as file:
        found = f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    if full:
        from harness.training.edm_weights import load_edm_weights

        try:
            found += f", {len(load_edm_weights(path))} tensors"
        except HarnessError as error:
            return Check(what, "missing", f"{found}: {error.what}", f"rm {path}; {mend}")
    return Check(what, "ok", found)


def _couplings(runs: Sequence[Run]) -> Iterator[Check]:
    for custom in dict.fromkeys(run.coupling.source for run in runs if isinstance(run.coupling, Custom)):
        path = project_root() / custom.rpartition(":")[0]
        yield Check(f"coupling {custom}", "ok" if path.is_file() else "missing", str(path), "" if path.is_file() else "put the file there")


def _write_access(store: Store) -> Check:
    folder = store.runs
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Check("write access", "missing", f"{folder}: {error.strerror}", "--results FOLDER, one that you may write")
    return Check("write access", "ok", str(folder))


def _disk(runs: Sequence[Run], store: Store, sizes: dict[str, int]) -> Check:
    """Two checkpoints a run, and a third while it is being written."""
    needed = sum(sizes.get(run.id, 0) * 3 for run in runs) / GIB + 0.001 * len(runs)
    folder = next(path for path in [store.root, *store.root.resolve().parents] if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:,.1f} GiB free, about {needed:,.2f} GiB needed"
    mend = f"free {needed - free:,.1f} GiB, or --results FOLDER on a larger disk"
    return Check("disk", "ok", found) if free > needed else Check("disk", "missing", found, mend)


def _memory(runs: Sequence[Run], sizes: dict[str, int]) -> Check:
    from harness.data.catalogue import info

    def held(run: Run) -> float:
        item = info(run.data.name)
        return (sizes.get(run.id, 0) * 1.5 + item.dim * (run.data.limit or item.train)) / GIB

    needed, free = _TORCH_GIB + max((held(run) for run in runs), default=0.0), memory_gib()
    if free is None:
        return Check("memory", "warn", f"unknown, at least {needed:.1f} GiB a process needed", "look yourself")
    found = f"{free:.1f} GiB free, at least {needed:.1f} GiB a process"
    return Check("memory", "ok", found) if free > needed else Check("memory", "warn", found, "fewer --workers, or a larger machine")


def _device(runs: Sequence[Run], executor: str) -> Check:
    devices = gpus()
    if devices:
        return Check("device", "ok", f"{len(devices)} x {device_kind()}")
    found = f"no GPU; {cores()} cores of {cpu_name()}"
    if not any(run.scale in ("paper", "fashion") for run in runs):
        return Check("device", "ok", found)
    if executor in ("auto", "slurm") and slurm_answers():
        return Check("device", "warn", found + " here; the cluster's nodes are not looked at", "ask for GPUs in the site file")
    verdict = "missing" if any(run.scale == "paper" for run in runs) else "warn"
    return Check("device", verdict, found, "a machine with a GPU, or a SLURM cluster; a smaller --scale runs here")


def _scheduler(executor: str) -> Check:
    if slurm_answers():
        return Check("scheduler", "ok", "SLURM answers")
    if executor == "slurm":
        return Check("scheduler", "missing", "no sbatch, or sinfo fails", "--executor local, or a login node of the cluster")
    return Check("scheduler", "ok", "none: runs start on this machine")


def _site(runs: Sequence[Run], executor: str, site: str | None) -> Iterator[Check]:
    """What the SLURM launcher will ask for."""
    if executor != "slurm" and not (executor == "auto" and slurm_answers()):
        return
    try:
        chosen = load_site(site)
    except HarnessError as error:
        found = f"{error.what}: {error.details.get('found', '')} ({error.details.get('where', '')})"
        yield Check("site file", "missing", found, str(error.details.get("nearest") or error.details.get("expected") or "mend that line"))
        return
    if not chosen.gpus and any(run.scale in ("fashion", "paper") for run in runs):
        yield Check("site file", "missing", f"{chosen.describe()}: no GPU", "gpus = 1 in site.toml, with the partition that has them")
    else:
        yield Check("site file", "ok", chosen.describe())


def _sizes(runs: Sequence[Run]) -> Iterator[tuple[Run, int]]:
    """Bytes of a run's checkpoint: weights, EMA and the optimizer's moments, in float32."""
    count = _counter()
    for run in runs:
        with contextlib.suppress(HarnessError):  # an unknown data set has a row of its own
            yield run, 4 * count(run) * (3 if run.train.optimizer == "lion" else 4)


def _counter() -> Callable[[Run], int]:
    from harness.data.catalogue import info
    from harness.training.model import preconditioned

    counts: dict[str, int] = {}

    def count(run: Run) -> int:
        key = f"{run.network!r} {run.data!r}"
        if key not in counts:
            item = info(run.data.name)
            counts[key] = sum(p.numel() for p in preconditioned(run, item.shape, item.classes).parameters())
        return counts[key]

    return count
