"""The choices that options of the command line offer. They are here so that `harness --help` need not import planner and launchers."""

from __future__ import annotations

from typing import Literal, get_args

Policy = Literal["default", "retry-failed", "retrain-other-code", "force", "read-only"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Executor = Literal["auto", "inline", "local", "slurm"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
