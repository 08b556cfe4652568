"""Cores, memory and GPUs of this machine. No torch, so that plans and status tables start quickly."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from harness.errors import HarnessError, unknown
from harness.store.gpus import device_files, find_gpus, known_gpus

Device = Literal["auto", "cpu", "cuda"]
"""Values of --device; auto is a GPU that torch can use, or the CPU where there is none."""
DEVICES: tuple[Device, ...] = get_args(Device)
NEED_GPU = ("fashion", "paper")
"""The scales whose runs take very long without a GPU: they use the CPU only with --device cpu."""


def cores() -> int:
    """CPU cores that this process may use, limited by its affinity and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def total_memory_gib() -> float | None:
    """Memory of this machine, or of this container if that is less, in GiB; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**30)
        return total
    return None


def idle_cores() -> int:
    """The cores of `cores` that no other process is using now; at least 1."""
    busy = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        busy = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1  # of this process
    return max(1, min(cores(), (os.cpu_count() or 1) - busy))


def memory_gib() -> float | None:
    """Memory available to new processes, in GiB; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        free = int(_value(Path("/proc/meminfo"), "MemAvailable:").split()[0]) / 2**20
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
            free = min(free, (limit - int(Path("/sys/fs/cgroup/memory.current").read_text())) / 2**30)
        return free
    return None


def check_device(wish: str) -> Device:
    """`wish` if it is one of DEVICES. Raises HarnessError for any other, such as mps."""
    if wish == "mps":
        reason = "mps; the noise levels and metrics are computed in float64, which Apple's GPU does not have"
        raise HarnessError("Apple's GPU cannot be used", where="--device", found=reason, expected="auto or cpu", nearest="cpu")
    if wish not in DEVICES:
        raise unknown("device", wish, DEVICES, where="--device")
    return wish


def choose_device(wish: str, scales: Iterable[str] = ()) -> Literal["cpu", "cuda"]:
    """The device that `wish`, one of DEVICES, means on this machine, for runs of these scales.

    Raises HarnessError for an unknown device, for cuda without a GPU that torch can use, and for auto where a scale needs such a GPU.
    """
    if check_device(wish) == "cpu":
        return "cpu"
    here = find_gpus()
    if here.usable:
        return "cuda"
    reason, fix = here.why_not or "no GPU", here.how_to_fix or "a machine with a GPU, or a SLURM cluster"
    if wish == "cuda":
        raise HarnessError("no GPU is available here", where="--device", found=f"cuda; {reason}", expected="auto or cpu", nearest=fix)
    if needing := [scale for scale in NEED_GPU if scale in scales]:
        slow = f"{fix}; or --device cpu, which takes very long"
        raise HarnessError(f"runs of the {needing[0]} scale need a GPU", where="--device auto", found=reason, nearest=slow)
    return "cpu"


def device_kind(device: str = "auto") -> str:
    """Name of the device under which rates are stored: the GPU's or the processor's. device: auto, cpu or cuda.

    Quick: what the NVIDIA driver lists is the answer until the command has asked torch (see `find_gpus`).
    """
    known = known_gpus()
    if device == "cpu" or not device_files() or (known and not known.usable):
        return cpu_name()
    if known:
        return known.usable[0].name
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1"):
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            if name := _value(path, "Model:"):
                return name
    answer = find_gpus()
    return answer.usable[0].name if answer.usable else cpu_name()


@functools.cache
def cpu_name() -> str:
    """The processor's name."""
    return _value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _value(path: Path, key: str) -> str:
    """The text after the colon in the first line that begins with `key`; "" without such a line or file."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
