"""Whether torch can be loaded here, asked in a process of its own: where memory is limited, as on login nodes, loading it may end the
process that tries. No torch."""

from __future__ import annotations

import os
import resource
from functools import cache

from harness.errors import HarnessError
from harness.store.gpus import answer_of
from harness.store.machine import memory_gib

PATIENCE = 300.0
"""Seconds for importing torch, most of which a slow network file system takes."""
SMALL = 2.0
"""GiB of free memory below which commands ask before they load torch."""
FIX = "work in a job (srun harness ...), or without the limit (ulimit -v unlimited)"


@cache
def torch_fault() -> str:
    """Why torch cannot be loaded here; "" where it can."""
    text, code = answer_of(["-c", "import torch"], os.environ, PATIENCE)
    if code == 0:
        return ""
    if code is None:
        return f"it was not loaded within {PATIENCE:.0f} s"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else f'the process ended with code {code}'}{_limit_text()}"


def memory_is_limited() -> bool:
    """Whether the address space of this process has a limit, or little memory is free."""
    free = memory_gib()
    return limit_of_memory() is not None or (free is not None and free < SMALL)


def check_torch() -> None:
    """Raises HarnessError where torch cannot be loaded. It is asked only where memory is limited, since the answer takes seconds."""
    if memory_is_limited() and (fault := torch_fault()):
        raise HarnessError("torch cannot be loaded here", where="the memory of this process", found=fault, nearest=FIX)


def limit_of_memory() -> float | None:
    """The smallest limit on the memory that this process may map, in GiB; None without one."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit / 2**30 for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def _limit_text() -> str:
    limit = limit_of_memory()
    return "" if limit is None else f"; this process may map {limit:.1f} GiB (ulimit -v)"
