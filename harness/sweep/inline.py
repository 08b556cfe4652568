"""The inline launcher: one run after the other in this process, with its output in the terminal; for debugging."""

from __future__ import annotations

import contextlib

from rich.console import Console

from harness.locations import project_root
from harness.store.exit_codes import ExitCode
from harness.store.machine import choose_device
from harness.store.runs import State, Store
from harness.sweep.local_processes import load_entry
from harness.sweep.plan import Action, Plan, PlannedRun
from harness.sweep.progress import Progress
from harness.sweep.supervisor import NOT_STARTED, LaunchOptions, Supervisor, SweepResult, explain


def run_inline(plan: Plan, store: Store, options: LaunchOptions, console: Console) -> SweepResult:
    """Carries out a plan in this process. A run that stops early, as at Ctrl-C, ends the sweep."""
    return InlineLauncher(plan, store, options, Progress(console)).run()


class InlineLauncher(Supervisor):
    """Runs in the order of the plan. It watches nothing and starts nothing again."""

    def run(self) -> SweepResult:
        device = choose_device(self.options.device)
        main = load_entry(self.options.entry)
        self.result.ends = {row.id: (row.state, row.reason) for row in self.plan.rows if row.action is Action.WAIT}
        stopped = False
        for row in self.plan.active:
            if stopped:
                self.result.ends[row.id] = (row.state, NOT_STARTED)
            elif reason := self.blocker(row):
                self.settle(row.id, State.BLOCKED, reason)
            elif folder := self.prepare(row):
                self.progress.note(f"== {row.id}")
                with contextlib.chdir(project_root()):
                    code = main([str(folder.path.resolve()), "--device", device])
                state, stopped = folder.state(), code == ExitCode.STOPPED
                self.settle(row.id, state, "" if state is State.DONE else "stopped" if stopped else explain(folder, code))
        return self.result

    def watch(self, row: PlannedRun) -> None:
        self.result.ends[row.id] = (State.RUNNING, "another process works on it")
