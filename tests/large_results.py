"""Makes a large results folder of finished, sealed runs, to measure report, `plan` and `status`: python tests/large_results.py DIR"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from report_support import PROTOCOL, make_baselines, make_run, quality

from harness.config.experiments import expand
from harness.config.run import Run
from harness.store import chain
from harness.store.runs import RunFolder


def make_large(root: Path, runs: int, evaluations: int, experiment: str = "sweep_mu", scale: str = "digits") -> list[Run]:
    """At least `runs` runs of an experiment, in as many seeds as that takes, each with `evaluations` evaluations of four metrics."""
    seeds = -(-runs // len(expand(experiment, scale, [0])))
    made = expand(experiment, scale, list(range(seeds)))
    for run in made:
        rows = chain.linked(_records(run, evaluations), run.id)
        folder = make_run(root, run, rows=rows)
        folder.write_result({**(folder.stored_result() or {}), **folder.seal_of_records()})
    make_baselines(root, scale, made[0].data.name)
    return made


def _records(run: Run, evaluations: int) -> list[dict]:
    rng = np.random.default_rng([run.seed, len(run.id)])
    rows = []
    for step in np.unique(np.linspace(1, run.train.steps, evaluations).round().astype(int)).tolist():
        for final in (False, True) if step == run.train.steps else (False,):
            fid = quality(run, step / run.train.steps, rng)
            values = {"fid": fid, "kid": fid / 30, "is": 9.9 - fid} | ({} if final else {"pair_cost": 100 + fid})
            common = {"run": run.id, "step": step, "images": step * run.train.batch, "seconds": round(step * 0.0125, 3)}
            spread = {"n": run.evaluation.samples, "resamplings": run.evaluation.resamplings if final else 1, "final": final}
            for metric, value in values.items():
                noise = {"sd": abs(value) * 0.01, "se": abs(value) * 0.005} if final else {"sd": None, "se": None}
                protocol = PROTOCOL.get(metric, "dddddddddddd")
                rows.append(common | {"metric": metric, "value": value} | noise | spread | {"protocol": protocol})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--evaluations", type=int, default=200)
    arguments = parser.parse_args()
    made = make_large(arguments.folder, arguments.runs, arguments.evaluations)
    count = sum(len(RunFolder(arguments.folder / "runs" / run.id).records()) for run in made[:1])
    print(f"{len(made)} runs with {count} records each in {arguments.folder}")


if __name__ == "__main__":
    main()
