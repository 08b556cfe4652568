"""Training curves as TensorBoard event files. Needs the package tensorboard, but neither torch nor TensorFlow."""

from __future__ import annotations

from pathlib import Path

from harness.errors import HarnessError
from harness.reporting.load import LoadedResults


def write_events(loaded: LoadedResults, folder: Path, scale: str | None) -> int:
    """Writes folder/<scale>/<run>/events.out...: every metric by step, with the times of the training. Returns the number of runs.

    Event files of an earlier call are replaced. Raises HarnessError when tensorboard is missing.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        install = "pip install 'consistency-harness[tensorboard]'"
        raise HarnessError("TensorBoard is not installed", where="--tensorboard", found=str(error), nearest=install) from error
    runs = [entry for entry in loaded.runs.values() if scale in (None, entry.run.scale)]
    records = dict(tuple(loaded.frame.groupby("run", observed=True)))
    for entry in runs:
        where = folder / entry.run.scale / entry.name
        for old in where.glob("events.out.tfevents.*"):
            old.unlink()
        start = float(entry.attempts[0].get("time", 0.0)) if entry.attempts else 0.0
        writer = EventFileWriter(str(where))
        rows = records.get(entry.id, loaded.frame.iloc[:0]).sort_values(["final", "step"])
        for row in rows.itertuples():
            tag = f"final/{row.metric}" if row.final else row.metric
            seconds = 0.0 if row.seconds != row.seconds else row.seconds
            value = Summary.Value(tag=tag, simple_value=row.value)
            writer.add_event(Event(wall_time=start + seconds, step=int(row.step), summary=Summary(value=[value])))
        writer.close()
    return len(runs)
