"""Shared by the tests of exports and of the public functions: run folders with trained weights, made without training."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.config.parts import Data, Ema, Evaluation, Network, Training
from harness.config.run import Run
from harness.store.provenance import provenance
from harness.store.runs import RunFolder
from harness.training import checkpoints
from harness.training.model import create


def image_run(labels: bool = False, **changes) -> Run:
    """Digits, and a U-Net of one level with four channels."""
    values = {
        "scale": "digits",
        "data": Data(name="digits", labels=labels),
        "network": Network(kind="ddpmpp", base_channels=4, channel_mult=(1,), num_blocks=(1,), dropout=(0.0,)),
        "train": Training(steps=2, batch=8, lr=1e-3, threads=1),
        "ema": Ema(rate=0.5),
        "evaluation": Evaluation(every=2, samples=16, resamplings=3),
    }
    return Run(**{**values, **changes})


def finished(root: Path, run: Run) -> RunFolder:
    """A folder of a finished run: random weights, other ones for the average, and three records at the last step."""
    folder = RunFolder.create(root, run.id, run.to_dict())
    model, draws = create(run), torch.Generator().manual_seed(run.seed)
    with torch.no_grad():
        for parameter in [*model.online.parameters(), *model.ema.parameters()]:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    checkpoints.save(folder.path / "checkpoints", run.id, run.train.steps, model.state() | {"step": run.train.steps})
    metrics = ("w2", "in_mode", "class_share/0") if run.network.kind == "mlp" else ("fid", "kid", "class_share/0")
    row = {"run": run.id, "step": run.train.steps, "images": 16, "seconds": 1.0, "n": 16, "final": True, "protocol": "abcdefabcdef"}
    rows = [row | {"metric": name, "value": 0.5, "sd": 0.03, "se": 0.03 / 3**0.5, "resamplings": 3} for name in metrics]
    folder.append_records([{**row, "metric": "fid", "value": 9.0, "sd": None, "se": None, "resamplings": 1, "final": False}, *rows])
    folder.add_attempt(provenance("a CPU"))
    folder.write_result({"step": run.train.steps, "seconds": 1.0, "fid": 0.5, "fingerprint": "0123456789ab"})
    return folder
