"""The mark of a data folder that holds the stand-ins of a rehearsal instead of data and weights, and who may use it. No torch.

`harness rehearse`, and a smoke test (`harness reproduce --smoke`), writes <data>/stand-ins.json before anything else into that folder.
Runs of a rehearsal read marked folders only, and every other run reads none, so that a folder that is named by mistake ends with a message
and not with a number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config.baselines import Job
from harness.errors import HarnessError, MissingFile
from harness.locations import data_root
from harness.store.files import read_json, write_json

NAME = "stand-ins.json"
FORMAT = 1
WHAT = "stand-ins, or a few images, for harness rehearse or a smoke test: no complete data, no trained weights, nothing to measure"
NEAREST = "another $HARNESS_DATA, the folder of your real data"


def mark(folder: Path, scale: str, inception: str = "") -> None:
    """Marks a data folder. scale: the one that is rehearsed. inception: SHA-256 of the stand-in of the Inception network, "" for none.

    Raises HarnessError where the folder cannot be written.
    """
    write_json(folder / NAME, {"format": FORMAT, "what": WHAT, "scale": scale, "inception": inception})


def marked(folder: Path) -> dict[str, Any] | None:
    """The content of the mark of a data folder, None where there is none. Raises HarnessError for a damaged one."""
    try:
        return read_json(folder / NAME)
    except MissingFile:
        return None


def inception_sha256(folder: Path) -> str:
    """SHA-256 of the stand-in of the Inception network in a data folder; "" where the real network belongs. Raises as `marked`."""
    return str((marked(folder) or {}).get("inception") or "")


def check(job: Job) -> None:
    """Raises HarnessError for a real job in a data folder of stand-ins, and for a job of a rehearsal anywhere else."""
    folder = data_root()
    holds_stand_ins = marked(folder) is not None
    if holds_stand_ins and not job.rehearsal:
        what = "the data folder holds the stand-ins of a rehearsal"
        raise HarnessError(what, where=folder, found=NAME, expected="data and weights", nearest=NEAREST)
    if job.rehearsal and not holds_stand_ins:
        what, advice = f"{job.id} belongs to a rehearsal", "harness rehearse, which makes a folder for it"
        raise HarnessError(what, where=folder, found=f"no {NAME}", expected="the data folder of its rehearsal", nearest=advice)
