"""The device and the processes that a job trains on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

from harness.config.run import Run
from harness.store.gpus import find_gpus
from harness.store.machine import choose_device, cpu_name
from harness.training.batches import ALONE, Processes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
PATIENCE = timedelta(hours=3)
"""How long processes wait for each other; the first one evaluates alone meanwhile."""


def torch_device(wish: str, scales: Iterable[str] = ()) -> torch.device:
    """The GPU of this process's LOCAL_RANK, or the CPU. wish: auto, cpu or cuda. Raises HarnessError as `choose_device`."""
    kind = choose_device(wish, scales)
    return torch.device("cuda", _local_gpu()) if kind == "cuda" else torch.device("cpu")


def _local_gpu() -> int:
    """The number of this process's GPU in torch's order, among those that torch can use."""
    usable = [number for number, gpu in enumerate(find_gpus().devices) if not gpu.reason]
    return usable[int(os.environ.get("LOCAL_RANK", 0)) % len(usable)]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def keep_freed_memory() -> None:
    """Lets glibc's allocator keep the memory that tensors on the CPU free, for the tensors of the next step.

    Otherwise it goes back to the system and comes again as pages to be zeroed: 2,000 in a step of the digits' network, an eighth of its
    time. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def prepare_torch(run: Run) -> None:
    """Sets what fixes the order of sums, so that a resumed run is bit-exact, and what costs no accuracy."""
    keep_freed_memory()
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if run.protocol.tf32 != "library":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = run.protocol.tf32 == "on"


def join_processes(wish: str = "auto") -> Processes:
    """This process among those of RANK and WORLD_SIZE, which torchrun or submitit set; NCCL for tensors on GPUs, gloo for others.

    wish: auto, cpu or cuda; with cpu no GPU is touched.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE
    uses_gpu = wish != "cpu" and bool(find_gpus().usable)
    if uses_gpu:
        torch.cuda.set_device(_local_gpu())
    dist.init_process_group("cpu:gloo,cuda:nccl" if uses_gpu else "gloo", timeout=PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())
