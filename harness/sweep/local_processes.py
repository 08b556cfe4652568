"""Processes of the local launcher. One server imports torch once and forks every run from itself, which saves seconds per run.

Children save and exit at SIGTERM, which they also send to themselves when the launcher dies, so that no orphan is left.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SERVER_LOST = 255
"""Exit code of a child whose server was killed."""
_CONTEXT = multiprocessing.get_context("forkserver")


def job_environment(executor: str, threads: int) -> dict[str, str]:
    """What is added to the environment of a run's process: thread counts, and the HARNESS_* variables with absolute paths."""
    own = {key: value for key, value in os.environ.items() if key.startswith("HARNESS_") and value}
    for key, value in own.items():
        with contextlib.suppress(OSError):  # what is too long for a path is none
            own[key] = str(Path(value).resolve()) if Path(value).exists() else value
    return {**own, **dict.fromkeys(THREADS, str(threads)), "HARNESS_EXECUTOR": executor}


def load_entry(entry: str) -> Callable[[list[str]], int]:
    """The function that `entry`, module:function, names."""
    function: Callable[[list[str]], int] = pkgutil.resolve_name(entry)
    return function


def log_to(path: Path) -> None:
    """Appends what this process prints from now on to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def open_server(entry: str, threads: int) -> None:
    """Starts the server that children are forked from, with the module of `entry` (module:function) imported. Returns at once."""
    _CONTEXT.set_forkserver_preload([entry.partition(":")[0]])
    # OpenMP and BLAS read these variables when they are loaded. CUDA must not be touched before the fork, not even to count GPUs.
    with _environment({**dict.fromkeys(THREADS, str(threads)), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}):
        forkserver.ensure_running()
    atexit.unregister(_end_server)
    atexit.register(_end_server)


def start(entry: str, arguments: list[str], log: Path, folder: Path, environment: Mapping[str, str]) -> BaseProcess:
    """A process that runs entry(arguments) in `folder` with exactly this environment and exits with its value; output goes to `log`."""
    process = _CONTEXT.Process(target=_work, args=(entry, arguments, str(log), str(folder), dict(environment)))
    process.start()
    return process


def _end_server() -> None:
    """Kills the server, which has no children when the launcher ends. It would end by itself, but not while it imports torch, and a program
    that reads the launcher's output through a pipe would wait for it that long."""
    if pid := getattr(forkserver, "_forkserver")._forkserver_pid:  # noqa: B009 - no public name
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill(process: BaseProcess) -> None:
    """Kills a child and every process that it started, and waits for its end."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # in case that it did not lead a process group yet
    process.join()


def _work(entry: str, arguments: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    os.setsid()  # Ctrl-C in the terminal reaches only the launcher, which asks the children to save
    threading.Thread(target=_end_with_launcher, name="launcher", daemon=True).start()
    log_to(Path(log))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment[THREADS[0]]))
    sys.exit(load_entry(entry)(arguments))


def _end_with_launcher() -> None:
    """Waits until the launcher is gone, even if it was killed, and then makes this process save and exit."""
    if launcher := multiprocessing.parent_process():
        wait([launcher.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
