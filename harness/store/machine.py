"""Cores, memory and GPUs of this machine. No torch, so that plans and status tables start quickly."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from pathlib import Path
from typing import Literal, get_args

from harness.errors import HarnessError, unknown

Device = Literal["auto", "cpu", "cuda"]
"""Values of --device; auto is the GPU, or the CPU on machines without one."""
DEVICES: tuple[Device, ...] = get_args(Device)


def cores() -> int:
    """CPU cores that this process may use, limited by its affinity and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


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


def gpus() -> list[str]:
    """The values for CUDA_VISIBLE_DEVICES that select one GPU each; [] without GPUs. Only those that the variable allows."""
    present = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(i) for i in range(len(present))]
    return [entry for entry in chosen.replace(" ", "").split(",") if entry not in ("", "-1")] if present else []


def choose_device(wish: str, gpu: bool | None = None) -> Literal["cpu", "cuda"]:
    """The device that `wish`, one of DEVICES, means on this machine. gpu: whether a GPU can be used; None to ask `gpus`.

    Raises HarnessError for an unknown device, and for cuda without a GPU.
    """
    if wish not in DEVICES:
        raise unknown("device", wish, DEVICES, where="--device")
    if wish == "cpu":
        return "cpu"
    available = bool(gpus()) if gpu is None else gpu
    if wish == "cuda" and not available:
        raise HarnessError("no GPU is available here", where="--device", found="cuda", expected="auto or cpu", nearest="cpu")
    return "cuda" if available else "cpu"


def device_kind(device: str = "auto") -> str:
    """Name of the device under which rates are stored: the GPU's or the processor's. device: auto, cpu or cuda."""
    if device == "cpu" or not gpus():
        return cpu_name()
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if name := _value(path, "Model:"):
            return name
    return "cuda"


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
