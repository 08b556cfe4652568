"""The GPUs of this machine that torch can use. A process of its own asks torch, once per command; jobs get the answer by a variable.

No torch, and no process on machines without the device file of a GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.locations import PACKAGE

VARIABLE = "HARNESS_GPUS"
"""Environment variable with the answer, for the processes that a command starts."""
PATIENCE = 120.0
"""Seconds that torch has for its answer, of which importing torch over a slow network takes most."""
_FILE = re.compile(r"nvidia\d+|dxg|kfd|nvhost-gpu")
"""Files of /dev: NVIDIA's driver, GPUs in WSL2, AMD's driver, NVIDIA's boards."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. memory: bytes. visible: the value for CUDA_VISIBLE_DEVICES that selects it. reason, fix: empty if torch can use it."""

    name: str
    memory: int
    capability: str
    visible: str
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Gpus:
    """The GPUs that this process may see, in torch's order. reason, fix: why torch can use none of them; empty where there is none."""

    devices: tuple[Gpu, ...] = ()
    reason: str = ""
    fix: str = ""

    @property
    def usable(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.devices if not gpu.reason)

    @property
    def why_not(self) -> str:
        """Why a GPU that is there cannot be used; empty where none is there, or one can be used."""
        if self.usable:
            return ""
        return self.reason or "; ".join(dict.fromkeys(f"{gpu.name}: {gpu.reason}" for gpu in self.devices))

    @property
    def how_to_fix(self) -> str:
        return self.fix or "; ".join(dict.fromkeys(gpu.fix for gpu in self.devices if gpu.fix))


def find_gpus() -> Gpus:
    """The GPUs here. The first call of a command asks torch; this process and those that it starts then share the answer."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not device_files() or (visible is not None and not _entries(visible)):
        return Gpus()
    if answer := known_gpus():
        return answer
    answer = _ask(visible)
    os.environ.update(as_variable(answer, visible))
    return answer


def known_gpus() -> Gpus | None:
    """The answer that this command has already, for the GPUs that this process may see; None without one."""
    try:
        content = json.loads(os.environ.get(VARIABLE) or "{}")
        if content["of"] != _place(os.environ.get("CUDA_VISIBLE_DEVICES")):
            return None
        return Gpus(tuple(Gpu(**gpu) for gpu in content["devices"]), content["reason"], content["fix"])
    except (ValueError, KeyError, TypeError):
        return None


def as_variable(answer: Gpus, visible: str | None) -> dict[str, str]:
    """The environment variable with an answer for processes on this machine whose CUDA_VISIBLE_DEVICES is `visible`."""
    return {VARIABLE: json.dumps({"of": _place(visible), **asdict(answer)})}


def environment_of(gpu: Gpu) -> dict[str, str]:
    """The environment of a process that uses only this GPU."""
    return {"CUDA_VISIBLE_DEVICES": gpu.visible, **as_variable(Gpus((gpu,)), gpu.visible)}


def device_files() -> list[str]:
    """The files by which GPUs show, without asking any driver; on a Mac, the name of its processor."""
    if sys.platform == "darwin":
        return ["mps"] if platform.machine() == "arm64" else []
    return sorted(path.name for path in Path("/dev").iterdir() if _FILE.fullmatch(path.name))


def _place(visible: str | None) -> list[Any]:
    """Where an answer holds: the machine, its device files, the Python that asked, and what the process may see."""
    return [platform.node(), device_files(), sys.executable, visible]


def _entries(visible: str) -> list[str]:
    return [entry for entry in visible.replace(" ", "").split(",") if entry not in ("", "-1")]


def _ask(visible: str | None) -> Gpus:
    environment = {name: value for name, value in os.environ.items() if name != "PYTORCH_NVML_BASED_CUDA_CHECK"}
    text, ended = answer_of([str(PACKAGE / "training" / "gpu_question.py")], environment, PATIENCE)
    if ended is None:
        reason = f"torch was asked about the GPU and did not answer within {PATIENCE:.0f} s"
        return Gpus(reason=reason, fix="see whether nvidia-smi answers; a driver that hangs needs a restart")
    try:
        content: Mapping[str, Any] = json.loads(text.strip().splitlines()[-1])
        names = None if visible is None else _entries(visible)
        devices = []
        for number, device in enumerate(content.get("devices", ())):
            devices.append(Gpu(**device, visible=names[number] if names else str(number)))
        return Gpus(tuple(devices), content.get("reason", ""), content.get("fix", ""))
    except (ValueError, IndexError, TypeError, AttributeError):
        last = (text.strip().splitlines() or ["no output"])[-1]
        return Gpus(reason=f"torch was asked about the GPU and failed ({ended}): {last[:400]}", fix="make setup")


def answer_of(arguments: list[str], environment: Mapping[str, str], seconds: float) -> tuple[str, int | None]:
    """Standard output of `python ARGUMENTS`, or its errors if it failed, and its exit code; None if it was killed after `seconds`.

    A process that hangs in a driver may outlive its kill; it is not waited for.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments], env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        return "", None
    except BaseException:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return (errors if process.returncode else output), process.returncode
