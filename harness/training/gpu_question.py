"""What torch can do with the GPUs here, printed as JSON. harness.store.gpus runs this file, which imports nothing of the harness."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from typing import Any

import torch

OTHER_TORCH = "install a build of torch for this GPU: for an old one, a build for an older CUDA"


def describe() -> dict[str, Any]:
    """devices: name, memory in bytes, capability and, if torch cannot compute on it, the reason and a fix, in torch's order; or the
    reason and the fix for all of them."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        if sys.platform == "darwin" and torch.backends.mps.is_available():
            reason = "the noise levels and metrics are computed in float64, which Apple's GPU (MPS) does not have"
            return {"reason": reason, "fix": "--device cpu"}
        return {"reason": f"torch {torch.__version__} is a build for the CPU", "fix": "install a build of torch for CUDA"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # is_available turns an error into a warning; init says it
            torch.cuda.init()
        devices = [_device(number) for number in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        return {"reason": _line(error), "fix": _fix(str(error))}
    return {"devices": devices} if devices else {"reason": "the driver shows no GPU", "fix": "nvidia-smi says what the driver sees"}


def _device(number: int) -> dict[str, Any]:
    capability, properties = torch.cuda.get_device_capability(number), torch.cuda.get_device_properties(number)
    described = {"name": properties.name, "memory": properties.total_memory, "capability": f"{capability[0]}.{capability[1]}"}
    built = torch.cuda.get_arch_list()
    if not supported(capability, built):
        reason = f"its compute capability {described['capability']} is not one of this torch ({' '.join(built)})"
        return {**described, "reason": reason, "fix": OTHER_TORCH}
    # Each of several processes tries its own GPU only: in exclusive mode they would refuse each other.
    others = int(os.environ.get("WORLD_SIZE") or 1) > 1 and int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count() != number
    try:
        if not others:
            torch.ones(2, device=f"cuda:{number}").sum().item()
    except RuntimeError as error:
        return {**described, "reason": _line(error), "fix": _fix(str(error))}
    return described


def supported(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether one of the architectures that torch was built for runs on a GPU: sm_XY on the same major version and at least that minor
    one, compute_XY on every later GPU. True where they are named otherwise, as for AMD's."""
    parsed = [match for match in (re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in built) if match]
    binaries = [(int(match[2]), int(match[3])) for match in parsed if match[1] == "sm"]
    portable = [(int(match[2]), int(match[3])) for match in parsed if match[1] == "compute"]
    fits = any(major == capability[0] and minor <= capability[1] for major, minor in binaries)
    return not parsed or fits or any(version <= capability for version in portable)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _fix(message: str) -> str:
    lower = message.lower()
    if "driver" in lower and ("too old" in lower or "insufficient" in lower):
        return f"install a newer NVIDIA driver, or a build of torch for CUDA as old as the driver (this one is for {torch.version.cuda})"
    if "no kernel image" in lower:
        return OTHER_TORCH
    if "out of memory" in lower or "busy" in lower:
        return "other processes use the GPU: nvidia-smi lists them"
    return "nvidia-smi says what the driver sees"


if __name__ == "__main__":
    print(json.dumps(describe()))
