"""Whether torch.compile works here: tried in a process of its own, once per command, whose jobs get the answer by a variable."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile

from harness.store.gpus import answer_of

VARIABLE = "HARNESS_COMPILE"
"""Environment variable with the answer, for the processes that a command starts."""
PATIENCE = 300.0
"""Seconds; importing torch and its compiler takes most of the usual 10."""
FIX = "apt-get install g++ python3-dev, or module load gcc; without a compiler these runs are not compiled and take longer"
_TRY = """
import sys
import torch
try:
    torch.compile(lambda x: (x.sin() + 1).relu() * 2)(torch.ones(64, device=sys.argv[1])).sum().item()
except Exception as error:
    cause = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split()
    sys.exit(f"{type(error).__name__}: {' '.join(cause)[:300]}")
"""


def compile_fault(device: str) -> str:
    """Why torch.compile does not work on "cpu" or "cuda" here; "" where it does."""
    place = [platform.node(), sys.executable, device, *(os.environ.get(name) for name in ("PATH", "CC", "CXX"))]
    try:
        content = json.loads(os.environ.get(VARIABLE) or "{}")
        if content["of"] == place:
            return str(content["fault"])
    except (ValueError, KeyError, TypeError):
        pass
    fault = _try(device)
    os.environ[VARIABLE] = json.dumps({"of": place, "fault": fault})
    return fault


def _try(device: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # what was compiled before would hide that the compiler is gone
        fresh = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        text, code = answer_of(["-c", _TRY, device], {**os.environ, **fresh}, PATIENCE)
    if code is None:
        return f"a tiny network was not compiled within {PATIENCE:.0f} s"
    return "" if code == 0 else (text.strip().splitlines() or [f"the compiling process ended with {code}"])[-1]
