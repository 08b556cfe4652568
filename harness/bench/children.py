"""Processes of their own for measurements: for peak memory, which a process has only once, and for several trainers at a time."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from harness.errors import HarnessError

PATIENCE = 1800.0
"""Seconds after which an answer is given up."""
PRELOADED = ["harness.bench.trainers"]
"""Imported once, in the process from which the others are forked."""


@contextmanager
def child(function: Callable[..., Any], *arguments: Any) -> Iterator[Connection]:
    """Runs function(connection, *arguments) in a new process, and yields the other end of the connection; ends the process afterwards."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    process = context.Process(target=_guarded, args=(function, there, *arguments), daemon=False)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def answer(connection: Connection) -> Any:
    """What the child sends. Raises HarnessError for an error in it, for its end and after PATIENCE seconds."""
    try:
        if not connection.poll(PATIENCE):
            raise HarnessError("a process of the benchmark does not answer", found=f"no answer within {PATIENCE:g} s")
        received = connection.recv()
    except (EOFError, ConnectionError):
        raise HarnessError("a process of the benchmark has ended", found="no answer", nearest="a machine with more memory") from None
    if isinstance(received, Failure):
        raise HarnessError("a process of the benchmark failed", found=received.trace)
    return received


class Failure:
    """The error of a child."""

    def __init__(self, trace: str) -> None:
        self.trace = trace


def _guarded(function: Callable[..., Any], connection: Connection, *arguments: Any) -> None:
    try:
        function(connection, *arguments)
    except (EOFError, BrokenPipeError):
        pass  # the parent has ended
    except Exception:
        connection.send(Failure(traceback.format_exc(limit=-4)))
