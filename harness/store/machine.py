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
"""What --device takes; auto is the GPU where there is one."""
DEVICES: tuple[Device, ...] = get_args(Device)


def cores() -> int:
    """CPU cores that this process may use, limited by its affinity and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def memory_gib() -> float | None:
    """Memory available to new processes, in GiB; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
            free = min(free, (limit - int(Path("/sys/fs/cgroup/memory.current").read_text())) / 2**30)
        return free
    return None


def gpus() -> list[str]:
    """The values for CUDA_VISIBLE_DEVICES that select one GPU each; [] without GPUs. Only those that the variable allows."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        listed = [entry.strip() for entry in chosen.split(",")]
        return [entry for entry in listed if entry and entry != "-1"] if _devices() else []
    return [str(i) for i in range(len(_devices()))]


def choose_device(wish: str, gpu: bool | None = None) -> Literal["cpu", "cuda"]:
    """The device that `wish`, one of DEVICES, means here. gpu: whether there is one that can be used; None: as `gpus` says.

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
    if device != "cpu" and gpus():
        return next(iter(_gpu_names()), "cuda")
    return cpu_name()


@functools.cache
def cpu_name() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _devices() -> tuple[Path, ...]:
    return tuple(path for path in sorted(Path("/dev").glob("nvidia[0-9]*")) if path.name.removeprefix("nvidia").isdigit())


@functools.cache
def _gpu_names() -> tuple[str, ...]:
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            names += [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("Model:")]
    return tuple(names)
