"""Exit codes of a job (`python -m harness.training.job`), which tell a launcher what to do next."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a job ended."""

    DONE = 0
    """The run is finished."""
    BAD_INPUT = 2
    """A HarnessError; error.json says what to change. Starting again does not help."""
    FAILED = 3
    """The run diverged or crashed; error.json says how."""
    STOPPED = 75
    """Stopped at a deadline or by a signal, with a checkpoint saved; start again to continue. 75 is EX_TEMPFAIL of sysexits.h."""
    BUSY = 76
    """Another process owns the run's folder."""
