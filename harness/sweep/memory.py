"""Whether runs fit into memory, estimated from their configs before anything starts. No torch.

Weights and optimizer are counted exactly, the activations of a row within a factor of two (harness.sweep.network_size). Measurements of a
finished run check their own memory when they begin (harness.theory.oracle).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.config.micro_batch import chosen_rows
from harness.config.parts import BatchOT, EntropicOT, GeneratorAugmented, Variational
from harness.config.run import Run
from harness.data.catalogue import info_of, main_metric
from harness.errors import HarnessError
from harness.store.gpus import Gpus, device_files, find_gpus, known_gpus
from harness.store.machine import NEED_GPU, total_memory_gib
from harness.sweep.network_size import network_size
from harness.sweep.site import load_site

GIB = 2**30
TORCH = GIB / 2
"""Bytes of a process that has imported torch and taken its first step, on the host and on a GPU."""
PER_PAIR = 48
"""Bytes of each entry of an optimal-transport problem: cost and plan in float64, and the solver's copy."""
FEATURES = 2048
"""Features of an image in the Inception network, float64."""


@dataclass(frozen=True)
class Capacity:
    """Memory in bytes, None where it is unknown. host: of this machine, or of one process of a job. gpu: of the smallest GPU."""

    host: float | None
    gpu: float | None = None
    uses_gpu: bool = False


def runnable(runs: Iterable[Run], capacity: Capacity, device: str = "auto") -> list[Run]:
    """Without those that need a GPU where there is none: they do not start here."""
    return [run for run in runs if capacity.uses_gpu or device == "cpu" or run.scale not in NEED_GPU]


def capacity_of(executor: str, device: str, site: str | None, ask: bool = True) -> tuple[Capacity, int]:
    """The memory that runs will find, and the number of processes that share a batch. ask: False to ask no driver about GPUs.

    executor: inline, local or slurm, of whose nodes only the site file is known. Raises HarnessError for a wrong site file.
    """
    if executor == "slurm":
        of_site = load_site(site)
        per_process = of_site.memory * GIB / of_site.tasks_per_node if of_site.memory else None
        return Capacity(per_process, None, uses_gpu=bool(of_site.gpus) and device != "cpu"), of_site.nodes * of_site.tasks_per_node
    total = total_memory_gib()
    host = None if total is None else total * GIB
    here = Gpus() if device == "cpu" or not device_files() else find_gpus() if ask else known_gpus()
    if here is None:
        return Capacity(host, None, uses_gpu=True), 1
    return Capacity(host, min((gpu.memory for gpu in here.usable), default=None), uses_gpu=bool(here.usable)), 1


@dataclass(frozen=True)
class Need:
    """Memory of one process that trains a run, in bytes. fixed, host: part by part, each with the key that makes it smaller."""

    fixed: dict[str, float]
    """On the device, whatever the number of rows."""
    row: float
    """On the device, for each row that goes through the network at once."""
    rows: int
    host: dict[str, float]
    """On the host."""

    def constant(self, uses_gpu: bool) -> float:
        """Where the network is, whatever the number of rows. Without a GPU it shares the memory of the host."""
        return sum(self.fixed.values()) + TORCH + (0.0 if uses_gpu else sum(self.host.values()))

    def of_batch(self, uses_gpu: bool) -> float:
        """Where the network is, for all rows that go through it at once."""
        return self.constant(uses_gpu) + self.rows * self.row


def need(run: Run, processes: int = 1, uses_gpu: bool = True) -> Need:
    """The memory that a run needs. Without a GPU, the images stay on the disk. Raises HarnessError for an unknown data set."""
    networks = 1 + isinstance(run.coupling, Variational)  # the encoder of a learned coupling has the same architecture
    size, dataset = network_size(run), info_of(run.data)
    copies = 5 if run.train.optimizer == "lion" else 6  # weights, EMA, gradients, an update, and one or two moments
    copies += run.network.kind == "edm2"  # its normalised weights
    values = dataset.dim * (1 if len(dataset.shape) == 3 else 4)
    network = "network.width" if run.network.kind == "mlp" else "network.base_channels"
    fixed = {network: 4.0 * copies * size.parameters * networks}
    if uses_gpu:
        fixed["data.limit"] = float(values * min(run.data.limit or dataset.train, dataset.train))
    batch = -(-run.train.batch // processes)
    host: dict[str, float] = {}
    match run.coupling:
        case BatchOT(scope="global", size=together):
            host["coupling.size" if together else "train.batch"] = PER_PAIR * float(together or run.train.batch) ** 2
        case BatchOT() | EntropicOT() | GeneratorAugmented(variant="batch-ot"):
            host["train.batch"] = PER_PAIR * float(batch) ** 2
    if main_metric(run.data.name) == "w2":
        host["evaluation.samples"] = PER_PAIR * float(run.evaluation.samples) ** 2
    elif dataset.needs_inception:
        host["evaluation.samples"] = 8.0 * FEATURES * run.evaluation.samples
    return Need(fixed, 4.0 * (size.activations * networks + 8 * dataset.dim), min(batch, chosen_rows() or batch), host)


def check_memory(runs: Iterable[Run], capacity: Capacity, processes: int = 1) -> str:
    """A sentence about the runs whose batch may not fit at once, with the rows that do; "" if all fit.

    processes: those that share a batch. Raises HarnessError for a run that cannot fit.
    """
    limit, tight, checked = capacity.gpu if capacity.uses_gpu else capacity.host, [], set()
    for run in runs:
        key = repr((run.network, run.data, run.coupling, run.train.batch, run.train.optimizer, run.evaluation.samples))
        if key in checked:
            continue
        checked.add(key)
        needed = need(run, processes, capacity.uses_gpu)
        if capacity.uses_gpu:
            _refuse(run, needed.host, capacity.host, "the machine")
            _refuse(run, {**needed.fixed, "train.batch": needed.row}, capacity.gpu, "the GPU")
        else:
            _refuse(run, {**needed.fixed, **needed.host}, capacity.host, "the machine", needed.row)
        if limit is not None and needed.of_batch(capacity.uses_gpu) > limit:
            tight.append((needed.of_batch(capacity.uses_gpu), run.slug, needed, limit))
    if not tight:
        return ""
    total, slug, needed, limit = max(tight, key=lambda entry: entry[0])
    rows = min(max(1, int((limit - each.constant(capacity.uses_gpu)) / each.row)) for _, _, each, limit in tight)
    others = f" (and {len(tight) - 1} further kinds of run, less)" if len(tight) > 1 else ""
    where = "the GPU" if capacity.uses_gpu else "the machine"
    return (
        f"{slug} needs about {gib(total)} to take {needed.rows:,} rows through the network at once{others}, and {where} has {gib(limit)}: "
        f"--micro-batch {2 ** (rows.bit_length() - 1)} fits, with the same result up to rounding"
    )


def _refuse(run: Run, parts: dict[str, float], limit: float | None, where: str, row: float = 0.0) -> None:
    """Raises HarnessError if even one row at a time needs more than the limit."""
    total = sum(parts.values()) + row
    if limit is None or total <= limit or not parts:
        return
    largest = max(parts, key=lambda name: parts[name])
    raise HarnessError(
        f"{run.slug} cannot fit into the memory of {where}",
        where=largest,
        found=f"about {gib(total)} needed, of which {gib(parts[largest])} by {largest}",
        expected=f"at most {gib(limit)}",
        nearest=f"a smaller {largest}, or more memory",
    )


def gib(count: float) -> str:
    """A number of bytes in GiB."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.0f} MiB"
