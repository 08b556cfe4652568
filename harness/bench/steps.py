"""Training steps: the plain baseline beside the harness's profiles, and what batch-OT and GC cost beside IC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from harness.bench.profiles import FP32
from harness.bench.rows import SECONDS, Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape
from harness.bench.trainers import COUPLINGS, HarnessSteps, PlainSteps, fit_turns, run_of

PART = "steps"
BARS = {("cifar10", "cpu"): "at least 4 with the fastest", ("cifar10", "cuda"): "at least 6 with the fastest"}
"""What the GC step of the plain baseline over that of the harness should be."""


def measure(setting: Setting) -> Iterator[Row | str]:
    """Rows for each shape, and a note for each profile that cannot be measured here."""
    for shape in setting.shapes:
        yield from of_shape(setting, shape)


def of_shape(setting: Setting, shape: Shape) -> Iterator[Row | str]:
    """All calls of one shape by turns: plain and harness in fp32 with each coupling, and the GC step in every other profile."""
    device, data = setting.device, shape.load(setting.device)
    runs = {name: run_of(shape, name, device) for name in COUPLINGS}
    profiles, notes = setting.profiles_for(shape)
    yield from (f"{shape.name}, {note}" for note in notes)
    with ExitStack() as stack:
        calls: dict[str, HarnessSteps | PlainSteps] = {}
        for name, run in runs.items():
            calls[f"plain {name}"] = PlainSteps(run, data, device)
            calls[f"fp32 {name}"] = HarnessSteps(FP32.applied(run), data, device)
        calls["fp32 OT in line"] = HarnessSteps(FP32.applied(runs["OT"]), data, device, assign_ahead=False)
        for profile in profiles:
            if profile != FP32:
                calls[f"{profile.name} GC"] = HarnessSteps(profile.applied(runs["GC"]), data, device)
        for trainer in calls.values():
            stack.callback(trainer.close)
        fit_turns(calls.values())
        times = setting.turns(calls, warm=True)
    where = setting.where(shape)
    bar = BARS.get((shape.name, device.type), "")
    for name in times:
        if name.endswith(" GC") and not name.startswith("plain"):
            yield ratio(PART, where, f"GC step, plain / {name.removesuffix(' GC')}", times["plain GC"], times[name], bar)
    for name in ("IC", "OT"):
        yield ratio(PART, where, f"{name} step, plain / fp32", times[f"plain {name}"], times[f"fp32 {name}"])
    bars = {"cuda": ("at most 1.15", "at most 1.03")}.get(device.type, ("about 1.2 (the paper)", "at most 1.05"))
    yield ratio(PART, where, "GC step / IC step, fp32", times["fp32 GC"], times["fp32 IC"], bars[0])
    yield ratio(PART, where, "OT step / IC step, fp32, assignment solved ahead", times["fp32 OT"], times["fp32 IC"], bars[1])
    yield ratio(PART, where, "OT step / IC step, fp32, assignment in line", times["fp32 OT in line"], times["fp32 IC"])
    for name, seconds in times.items():
        yield row(PART, where, f"step, {name}", SECONDS, seconds)
