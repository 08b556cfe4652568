"""The jobs that measure baselines: the metrics of samples of known quality, which tables show beside the models.

They are planned, run and stored like runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from harness.config.identity import FORMAT, identity_digest
from harness.config.overrides import from_dict
from harness.config.parts import REHEARSAL_PREFIX, Choice, Count, CustomData, Part, Rehearsal, ScaleName
from harness.config.run import Run
from harness.config.validation import validated, without_format
from harness.errors import ConfigMismatch

OF_REHEARSAL = "baselines of a rehearsal"
"""`BaselineJob.rehearsal` of the baselines that belong to rehearsed runs."""


class BaselineJob(Part):
    """The baselines of one data set under one evaluation protocol."""

    kind: Literal["baselines"] = "baselines"
    scale: ScaleName
    data: str
    """The name of the data set."""
    custom: CustomData | None = None
    """As `Run.data.custom`."""
    samples: Count
    """As `Run.evaluation.samples`."""
    resamplings: Count
    """As `Run.evaluation.resamplings`."""
    sample_range: Choice
    """As `Run.protocol.sample_range`."""
    quantisation: Choice
    """As `Run.protocol.quantisation`."""
    rehearsal: Rehearsal = None
    """As `Run.rehearsal`."""
    needs: ClassVar[tuple[str, ...]] = ()
    """As `Run.needs`: no other run."""

    @property
    def id(self) -> str:
        """Folder name: <data>-baselines-<first 12 hex digits of the digest>, as for a run."""
        mark = REHEARSAL_PREFIX if self.rehearsal else ""
        return f"{mark}{self.data}-baselines-{identity_digest(self.to_dict())[:12]}"

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.model_dump(mode="json")}


Job = Run | BaselineJob
"""What a launcher starts in a run folder of its own."""


def baseline_jobs(runs: Iterable[Run]) -> list[BaselineJob]:
    """The jobs whose baselines the tables of these runs show: one per data set and evaluation protocol, none for denoisers."""
    jobs = [
        BaselineJob(
            scale=run.scale,
            data=run.data.name,
            custom=run.data.custom,
            samples=run.evaluation.samples,
            resamplings=run.evaluation.resamplings,
            sample_range=run.protocol.sample_range,
            quantisation=run.protocol.quantisation,
            rehearsal=OF_REHEARSAL if run.rehearsal else None,
        )
        for run in runs
        if run.objective.kind != "denoiser"
    ]
    return list({job.id: job for job in jobs}.values())


def data_name(job: Job) -> str:
    """The name of the data set of a run or baselines job."""
    return job.data.name if isinstance(job, Run) else job.data


def is_baselines(config: Mapping[str, Any]) -> bool:
    """True for the stored config of a BaselineJob, False for that of a Run."""
    return config.get("kind") == "baselines"


def job_from_dict(config: Mapping[str, Any], where: object = None) -> Job:
    """The job of a stored config. Raises HarnessError for anything unknown or out of range."""
    if not is_baselines(config):
        return from_dict(config, where=where)
    return validated(BaselineJob, without_format(config, where), where)


def stored_job(config: Mapping[str, Any], name: str, where: object = None) -> Job:
    """The job of a stored config, which must belong to the run id `name`.

    The hash is that of the config as it is stored, so that a config from before a key existed keeps its id. Raises ConfigMismatch for the
    config of another id, as after an edit, and HarnessError as `job_from_dict` does.
    """
    job = job_from_dict(config, where)
    own = f"{job.id.rpartition('-')[0]}-{identity_digest(config)[:12]}"
    if own.rpartition("-")[2] != name.rpartition("-")[2]:
        fix = "restore this config.json, or move the folder away: a changed config is another run with a folder of its own"
        raise ConfigMismatch(f"the stored config is that of {own}, not of {name}", where=where, found=own, expected=name, nearest=fix)
    return job
