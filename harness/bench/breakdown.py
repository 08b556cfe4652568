"""Where the time of a step goes: stages of the real training loop, marked by hooks of its modules and of its optimizer.

The stages follow each other without a gap, so their shares add up to one. On a GPU each mark waits until the GPU is idle, which takes away
what the host would have prepared meanwhile: the shares then say what the GPU works on, and the complete step is faster than their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch

from harness.bench.profiles import FP32
from harness.bench.rows import SHARE, Row, row
from harness.bench.setting import Setting
from harness.bench.shapes import threads_of
from harness.bench.trainers import COUPLINGS, TURN, HarnessSteps, PlainSteps, now, run_of
from harness.bench.turns import Timed
from harness.training.loop import CHECK_EVERY, Hooks, train

PART = "breakdown"
STAGES = {
    "data": "wait for data",
    "assignment": "wait for data, noise and assignment",
    "predictor": "endpoint predictor",
    "student forward": "student, forward",
    "teacher": "teacher",
    "backward": "loss and backward",
    "optimizer": "optimizer",
    "EMA": "EMA",
    "checks": "checks and logging",
    "other": "between these",
}
"""The stages of a step, and their names in the table."""
LEAST_STEPS = 1
"""Steps in one call, besides one that does not count."""


class Timeline:
    """Adds up the seconds between marks by stage."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.last = device, dict.fromkeys(STAGES, 0.0), now(device)

    def mark(self, stage: str) -> None:
        """The time since the last mark was spent on this stage."""
        time = now(self.device)
        self.seconds[stage] += time - self.last
        self.last = time

    def restart(self) -> None:
        """Forgets what was marked."""
        self.seconds, self.last = dict.fromkeys(STAGES, 0.0), now(self.device)

    def shares(self) -> dict[str, float]:
        """The share of each stage in the whole."""
        total = sum(self.seconds.values())
        return {stage: seconds / total for stage, seconds in self.seconds.items()}


class MarkedSteps:
    """The steps of a HarnessSteps, whose loop marks a timeline at every stage."""

    def __init__(self, trainer: HarnessSteps, stack: ExitStack) -> None:
        self.trainer, self.timeline = trainer, Timeline(trainer.device)
        trained, mark = trainer.model, self.timeline.mark
        self.waits = "assignment" if trainer.run.coupling.kind == "batch-ot" else "data"
        self.drawn = False

        def before_network(*_: Any) -> None:
            mark("other" if self.drawn else self.waits)
            self.drawn = True

        def after_online(*_: Any) -> None:
            mark("student forward" if torch.is_grad_enabled() else "teacher")

        hooks = (
            trained.ema.register_forward_pre_hook(before_network),
            trained.ema.register_forward_hook(lambda *_: mark("predictor")),
            trained.online.register_forward_pre_hook(before_network),
            trained.online.register_forward_hook(after_online),
        )
        for hook in hooks:
            stack.callback(hook.remove)
        step = trained.optimizer.step

        def marked_step() -> None:
            mark("backward")
            step()
            mark("optimizer")

        trained.optimizer.step = marked_step  # type: ignore[method-assign]  # of this one optimizer

    def __call__(self, steps: int) -> dict[str, float]:
        """The share of each stage in that many steps, after one step that does not count; checks count as often as in a long run."""
        trainer, first = self.trainer, self.trainer.model.step + 1
        checked = 0

        def stop() -> bool:
            self.timeline.mark("EMA")
            self.drawn = False
            if trainer.model.step == first:
                self.timeline.restart()
            return trainer.model.step >= first + steps

        def progress(_: object) -> None:
            nonlocal checked
            checked += 1
            self.timeline.mark("checks")
            if trainer.model.step <= first:
                checked = 0
                self.timeline.restart()

        with threads_of(trainer.run):
            hooks = Hooks(stop=stop, progress=progress)
            train(trainer.run, trainer.data, trainer.model, hooks, assign_ahead=trainer.assign_ahead)
        if checked:  # one check at the end of every call, but one in CHECK_EVERY steps of a run
            self.timeline.seconds["checks"] *= steps / CHECK_EVERY / checked
        return self.timeline.shares()


class MarkedPlainSteps:
    """The steps of the plain baseline with its timeline."""

    def __init__(self, trainer: PlainSteps, timeline: Timeline) -> None:
        self.trainer, self.timeline = trainer, timeline

    def __call__(self, steps: int) -> dict[str, float]:
        with threads_of(self.trainer.run):
            self.trainer.trainer.train(1)
            self.timeline.restart()
            self.trainer.trainer.train(steps)
        return self.timeline.shares()


def measure(setting: Setting) -> Iterator[Row | str]:
    """The shares of all stages with each coupling in fp32, of GC in the fastest profile that works here, and of the plain baseline's GC."""
    for shape in setting.detailed:
        data = shape.load(setting.device)
        fastest = setting.profiles_for(shape)[0][-1]
        with ExitStack() as stack:
            marked: dict[str, MarkedSteps | MarkedPlainSteps] = {}
            timeline = Timeline(setting.device)
            plain = PlainSteps(run_of(shape, "GC", setting.device), data, setting.device, on=timeline.mark)
            stack.callback(plain.close)
            marked["GC, plain"] = MarkedPlainSteps(plain, timeline)
            wanted = [(name, FP32) for name in COUPLINGS] + ([("GC", fastest)] if fastest != FP32 else [])
            for coupling, profile in wanted:
                run = profile.applied(run_of(shape, coupling, setting.device))
                marked[f"{coupling}, {profile.name}"] = MarkedSteps(HarnessSteps(run, data, setting.device), stack)
            shares: dict[str, list[dict[str, float]]] = {name: [] for name in marked}
            calls = {name: recorded(call, steps_per_call(call, setting.device), shares[name]) for name, call in marked.items()}
            setting.turns(calls, warm=True)
        where = setting.where(shape)
        for name, rounds in shares.items():
            for stage, label in STAGES.items():
                values = [share[stage] for share in rounds]
                if any(values):
                    yield row(PART, where, f"{name}: {label}", SHARE, values)


def steps_per_call(call: MarkedSteps | MarkedPlainSteps, device: torch.device) -> int:
    """As many steps as TURN holds, after one that does not count."""
    start = now(device)
    call(LEAST_STEPS)
    return max(LEAST_STEPS, round(TURN / ((now(device) - start) / (LEAST_STEPS + 1))))


def recorded(call: MarkedSteps | MarkedPlainSteps, steps: int, store: list[dict[str, float]]) -> Timed:
    """A call by turns, whose shares are kept in `store`."""

    def measured() -> float:
        store.append(call(steps))
        return sum(call.timeline.seconds.values()) / steps

    return measured
