"""What waits for the user: plan, status and report over 10, 100 and 1,000 finished runs, each as a command in a process of its own.

The runs are generated: real configs of Table 1 at the toy scale, with invented records of 20 evaluations each.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from harness.bench.rows import SECONDS, Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.turns import Timed
from harness.config.experiments import expand
from harness.config.run import Run
from harness.errors import HarnessError
from harness.store.records import Record

PART = "commands"
SIZES = (10, 100, 1000)
COUPLINGS = 3
"""Runs of Table 1 for each seed."""
EVALUATIONS = 20
METRICS = ("w2", "in_mode", "mode_tv", "modes_missing")
EMPTY = "empty Python process"


def records_of(run: Run, evaluations: int = EVALUATIONS) -> list[Record]:
    """Invented records of a finished run of points: a curve that falls, and the final values."""
    draw, steps, rows = random.Random(run.id), run.train.steps, []
    for number in range(1, evaluations + 2):
        final = number > evaluations
        step = steps if final else steps * number // evaluations
        distance = 0.05 + 0.5 * math.exp(-4 * step / steps) * math.exp(draw.gauss(0, 0.05))
        values = dict(zip(METRICS, (distance, 1 - distance, distance / 10, 0.0), strict=True))
        sd, resamplings = (0.01, run.evaluation.resamplings) if final else (None, 1)
        about = {"run": run.id, "step": step, "images": step * run.train.batch, "seconds": step / 80, "sd": sd, "se": sd}
        about |= {"n": run.evaluation.samples, "resamplings": resamplings, "final": final}
        rows += [Record(metric=metric, value=value, protocol=f"{metric:0<12.12}", **about) for metric, value in values.items()]  # type: ignore[arg-type]
    return rows


def generate(root: Path, runs: Sequence[Run]) -> None:
    """Run folders, as finished runs leave them, without checkpoints and samples."""
    for run in runs:
        folder = root / "runs" / run.id
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(run.to_dict()))
        (folder / "records.jsonl").write_text("".join(json.dumps(record.to_json()) + "\n" for record in records_of(run)))
        (folder / "result.json").write_text(json.dumps({"step": run.train.steps, "seconds": run.train.steps / 80, "rate": 80.0}))


def measure(setting: Setting) -> Iterator[Row | str]:
    """Seconds of each command over each number of runs, and beside those of an empty Python process, by turns."""
    allowed, before = 10 * max(setting.seconds, 0.1), dict[str, dict[int, float]]()
    left = ["plan", "status", "report"]
    for size in SIZES[: 1 if setting.quick else None]:
        root, seeds = setting.folder / f"{size}-runs", math.ceil(size / COUPLINGS)
        generate(root, expand("table1", "toy", tuple(range(seeds)))[:size])
        arguments = {"plan": ["plan", "table1", "--scale", "toy", "--seeds", str(seeds)], "status": ["status"]}
        arguments["report"] = ["report", "--scale", "toy"]
        for name in list(left):
            if name in before and (expected := predicted(before[name], size)) > allowed:
                yield f"{name} of {size:,} runs: not measured, it may take {expected:.0f} s; --seconds allows more"
                left.remove(name)
        calls: dict[str, Timed] = {EMPTY: partial(_seconds, [sys.executable, "-c", ""])}
        for name in left:
            calls[name] = partial(_seconds, [sys.executable, "-m", "harness", *arguments[name], "--results", str(root)])
        times = setting.turns(calls, warm=True)
        for name in left:
            before.setdefault(name, {})[size] = min(times[name])
            bar = "under 20" if (name, size) == ("report", 1000) else ""
            yield row(PART, f"{size:,} runs", f"harness {name}", SECONDS, times[name], bar)
            yield ratio(PART, f"{size:,} runs", f"harness {name} / {EMPTY}", times[name], times[EMPTY])


def predicted(seconds: Mapping[int, float], size: int) -> float:
    """The seconds at another number of runs, on the line through the two largest numbers measured; ten times those of a single one."""
    *_, last = seconds
    if len(seconds) < 2:
        return seconds[last] * size / last
    earlier = list(seconds)[-2]
    return seconds[last] + (size - last) * max(0.0, seconds[last] - seconds[earlier]) / (last - earlier)


def _seconds(command: Sequence[str]) -> float:
    """Seconds of a command, with the start of its process. Raises HarnessError if it fails."""
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise HarnessError("a command of the benchmark failed", where=" ".join(command), found=ended.stderr[-1000:])
    return time.perf_counter() - start
