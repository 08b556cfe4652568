"""The site file of a SLURM cluster: a small TOML file, all keys optional. It changes where and how long runs compute, never a result.

It is searched for in this order: --site FILE, $HARNESS_SITE, ./site.toml, ~/.config/harness/site.toml. docs/sites has examples.
"""

from __future__ import annotations

import datetime
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.config.validation import validated
from harness.errors import HarnessError
from harness.locations import user_path
from harness.store.torch_loads import limit_of_memory

NAMES = ("./site.toml", "~/.config/harness/site.toml")


def minutes(value: object) -> object:
    """A time limit in minutes, rounded up, from minutes, "H:MM:SS", "D-HH:MM:SS" or a TOML time. Raises ValueError for others."""
    if isinstance(value, datetime.time):
        value = value.strftime("%H:%M:%S")
    if isinstance(value, str):
        match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", value.strip()) or re.fullmatch(r"()()(\d+)()", value.strip())
        if not match:
            raise ValueError('a time is minutes, "H:MM:SS" or "D-HH:MM:SS"')
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return (days * 24 + hours) * 60 + minutes + (seconds > 0)
    return value


Name = Annotated[str, Field(pattern=r"^[\w.,:@|&*+\-\[\]()]+$")]
Count = Annotated[int, Field(ge=1, strict=True)]
Option = bool | int | Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=1000)]
OWN_OPTIONS = {
    **dict.fromkeys(("partition", "account", "qos", "constraint", "time", "nodes", "setup"), "the key of that name"),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "tasks-per-node", "cpus-per-task", "gpus-per-node"), "tasks, cpus, gpus"),
    **dict.fromkeys(("gpus", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu", "cpus-per-gpu"), "tasks, cpus, gpus, or sbatch.gres"),
    "mem": "memory",
    "signal": "margin, signal",
    **dict.fromkeys(("array", "dependency", "requeue", "no-requeue", "kill-on-invalid-dep", "job-name", "wckey"), "the launcher"),
    **dict.fromkeys(("output", "error", "input", "open-mode", "chdir", "wrap", "wait", "parsable", "test-only", "hold"), "the launcher"),
}
"""Options of sbatch that are not passed through, with what decides them instead."""


class Site(BaseModel):
    """What to request from a cluster. None leaves a choice to the cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    time: Annotated[int, Field(ge=1), BeforeValidator(minutes)] = 60
    """Time limit of one job in minutes. A run that is not done in time resumes in another job."""
    nodes: Count = 1
    gpus: Annotated[int, Field(ge=0, strict=True)] = 0
    """Per node."""
    tasks: Count | None = None
    """Processes of a run on each node; None for one per GPU, or one."""
    cpus: Count = 1
    """Per process."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """GiB per node."""
    parallelism: Count | None = None
    """Runs at once."""
    max_array_size: Count | None = None
    """Longest array; None for the cluster's own limit."""
    margin: Annotated[int, Field(ge=1)] | None = None
    """Seconds before the time limit at which a run saves and stops; None for a tenth of the limit, at most 5 minutes."""
    signal: Annotated[int, Field(ge=1)] | None = None
    """Seconds before the time limit at which SLURM warns a run that has not stopped; None for half the margin."""
    setup: tuple[str, ...] = ()
    """Shell lines before the start of a run: modules, variables."""
    srun: bool = True
    """Whether srun starts the processes of a run; false on clusters that refuse it inside a job, for runs of one process."""
    sbatch: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")], Option] = {}
    """Further options of sbatch without their dashes: gres = "gpu:a100:4", exclude = "node[1-3]", reservation, export = "NONE".

    With gres for GPUs, the launcher does not ask for gpus-per-node."""

    @model_validator(mode="after")
    def _agrees(self) -> Site:
        if self.gpus and self.tasks and self.tasks != self.gpus:
            raise ValueError(f"tasks = {self.tasks} with gpus = {self.gpus}: a run has one process per GPU")
        if self.save_before >= self.time * 60:
            raise ValueError(f"margin = {self.save_before} s leaves nothing of time = {self.time} min")
        if self.warn_before > self.save_before:
            raise ValueError(
                f"signal = {self.warn_before} s is longer than margin = {self.save_before} s, after which it is the second warning"
            )
        return self

    @model_validator(mode="after")
    def _options_do_not_clash(self) -> Site:
        for name in self.sbatch:
            if name in OWN_OPTIONS:
                raise ValueError(f"sbatch.{name} is decided by {OWN_OPTIONS[name]}")
        if self.memory and (other := next((name for name in self.sbatch if name.startswith("mem-per-")), None)):
            raise ValueError(f"sbatch.{other} beside memory = {self.memory:g}: SLURM takes one of them only")
        if self._gres_asks_for_gpus and not self.gpus:
            raise ValueError(f"sbatch.gres = {self.sbatch['gres']!r} needs gpus, the number of GPUs of a node, which have one process each")
        if not self.srun and self.nodes * self.tasks_per_node > 1:
            raise ValueError(f"srun = false with {self.nodes} nodes of {self.tasks_per_node} processes: only srun starts several")
        return self

    @property
    def _gres_asks_for_gpus(self) -> bool:
        return str(self.sbatch.get("gres", "")).startswith("gpu")

    @property
    def gpus_per_node(self) -> int | None:
        """GPUs to ask for by --gpus-per-node; None where there are none, or where --gres asks for them."""
        return None if self._gres_asks_for_gpus else self.gpus or None

    @property
    def save_before(self) -> int:
        """Seconds before the limit at which a run stops itself."""
        return self.margin or min(300, self.time * 6)

    @property
    def warn_before(self) -> int:
        """Seconds before the limit at which SLURM sends its signal."""
        return self.signal or max(1, self.save_before // 2)

    @property
    def tasks_per_node(self) -> int:
        return self.tasks or max(1, self.gpus)

    def describe(self) -> str:
        """One line: partition gpu, 8:00:00 a job, 1 node with 4 processes, 8 CPUs and 1 GPU a process."""
        where = f"partition {self.partition}" if self.partition else "default partition"
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        per = f"{self.tasks_per_node} process{'' if self.tasks_per_node == 1 else 'es'}{'' if self.nodes == 1 else ' each'}"
        cpus = f"{self.cpus} CPU{'' if self.cpus == 1 else 's'}{' and 1 GPU' if self.gpus else ''} a process"
        return f"{where}, {self.time // 60}:{self.time % 60:02d}:00 a job, {nodes} with {per}, {cpus}"


def limits_of_jobs() -> dict[str, str]:
    """Where this process may map little memory, as on login nodes (ulimit -v), jobs do not inherit its limits, as they would by default."""
    return {} if limit_of_memory() is None else {"propagate": "NONE"}


def load_site(chosen: str | Path | None = None) -> Site:
    """The site, with all defaults if there is no file. Raises HarnessError, naming file and key, for anything wrong in it.

    chosen: the file named by --site.
    """
    named = chosen or os.environ.get("HARNESS_SITE")
    where, hint = "--site" if chosen else "$HARNESS_SITE", "see the example in the README"
    paths = [user_path(named, where)] if named else [Path(os.path.expanduser(name)) for name in NAMES]  # noqa: PTH111 - without a home too
    path = next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113 - false in a home that may not be entered
    if path is None and named:
        raise HarnessError("no such site file", where=where, found=paths[0], expected="a TOML file", nearest=hint)
    if path is None:
        return Site()
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError("the site file cannot be read", where=path, found=error) from error
    except tomllib.TOMLDecodeError as error:
        raise HarnessError("the site file is not valid TOML", where=path, found=error, expected='lines like partition = "gpu"') from error
    return validated(Site, values, path)
