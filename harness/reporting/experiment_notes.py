"""The notes below the table of an experiment: how its values were measured, what is missing, and where its runs come from."""

from __future__ import annotations

import pandas as pd

from harness.config.custom_data import FEATURES_IN_WORDS
from harness.config.parts import Evaluation
from harness.data.catalogue import REGISTRY, main_metric
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.experiment_frame import BASELINES, WALL_CLOCK
from harness.reporting.other_networks_notes import other_network_notes
from harness.reporting.values import METRICS, OWN_CLASSIFIER, QUALITY, CellValues
from harness.stats.intervals import ALPHA
from harness.store.made_by import summarised
from harness.store.records import parted_name

_WALL_CLOCK = (
    "stopped at iCT-IC's wall-clock time: the last evaluation of GC within the seconds that iCT-IC of its seed trained for, as recorded; "
    "meaningful only if both ran on equal machines under equal load"
)


def table_notes(experiment: ExperimentCells, cell_values: CellValues, frame: pd.DataFrame) -> list[str]:
    """How the values were measured, what was left out, and how to complete the table."""
    return [
        *_measured(experiment, cell_values, frame),
        *other_network_notes(experiment, cell_values, frame),
        *_missing(experiment, cell_values),
        *_provenance(experiment, cell_values),
    ]


def _measured(experiment: ExperimentCells, cell_values: CellValues, frame: pd.DataFrame) -> list[str]:
    notes = []
    for data in experiment.data:
        of_data = frame[(frame.data == data) & frame.metric.map(lambda name: parted_name(name)[0] in QUALITY).astype(bool)]
        measured = of_data[(of_data.kind == "model") & of_data["mean"].notna()]
        if measured.key.str.endswith(WALL_CLOCK).any():
            notes.append(_WALL_CLOCK)
        balanced = any(cell.run.evaluation.labels == "balanced" for cell in experiment.of(data))
        if len(measured) and not (of_data.kind == "baseline").any() and experiment.selection and not balanced:
            command = experiment.selection.command("harness reproduce")
            notes.append(f"{paper_values.data_name(data)}: no baselines yet; to measure them: {command}")
        if baselines := cell_values.loaded.baselines_of(data, set(measured.protocol)):
            notes += [f"{paper_values.data_name(data)}: {why}" for why in baselines.absent.values()]
            notes += _other_n(of_data[of_data.kind == "baseline"], measured)
        notes += [*_methods(experiment, data, measured), *_sampling(experiment, data)]
        for metric in of_data.metric.unique():
            notes += [f"left out: {text}" for text in cell_values.column(experiment.of(data), metric).left_out]
    notes += [note for data in experiment.data if (note := _of_custom(experiment, data))]
    if any(data in REGISTRY and REGISTRY[data].base in OWN_CLASSIFIER for data in experiment.data):
        notes.append(
            "FID, KID and IS use the features of a classifier of this data set, not Inception: not comparable with the paper's values"
        )
    if experiment.name == "table1":
        notes += [note for data in experiment.data for note in _times_below_noise(frame[frame.data == data])]
    return list(dict.fromkeys(notes))


def _of_custom(experiment: ExperimentCells, data: str) -> str:
    """What a set of the user's own is, and what measures it; "" for a set of the catalogue."""
    custom = experiment.of(data)[0].run.data.custom
    if custom is None:
        return ""
    measured = FEATURES_IN_WORDS[custom.features]
    return f"{data}: {custom.label}; network and schedule follow from these (docs/your-data.md); measured by {measured}"


def _other_n(baselines: pd.DataFrame, models: pd.DataFrame) -> list[str]:
    """What the held-out images of another n than the models' samples can be compared with, and how their value at equal n is estimated."""
    other = baselines[~baselines.samples.isin(models.samples)]
    if other.empty or models.empty:
        return []
    label, n, count = other.model.iloc[0], models.samples.iloc[0], other.samples.iloc[0]
    text = f"{label}: another n than the models' {n:,.0f} samples, so do not compare it with the other rows: the metrics depend on n"
    if (at_n := BASELINES["heldout-at-n"]) in set(baselines.model):
        text += (
            f"; {at_n}: an estimate of what {n:,.0f} held-out images would give, from these {count:,.0f} and the bias of as many resampled "
            "training images; se of both"
        )
    return [text]


def _methods(experiment: ExperimentCells, data: str, measured: pd.DataFrame) -> list[str]:
    """Step, interval, evaluation noise and protocol of the values of one data set."""
    models = measured[measured.seeds_wanted.notna()]
    if models.empty:
        return []
    prefix = f"{paper_values.data_name(data)}: " if len(experiment.data) > 1 else ""
    cells = experiment.of(data)
    steps = ", ".join(f"{step:,}" for step in sorted({cell.run.train.steps for cell in cells}))
    protocols = models.groupby("metric", sort=False).protocol.first()
    several = any(parted_name(str(name))[1] > 1 for name in protocols.index)  # their titles have commas
    hashes = ("; " if several else ", ").join(f"{METRICS[str(name)].title} {protocol}" for name, protocol in protocols.items())
    main = METRICS[main_metric(data)].title
    return [
        f"{prefix}n: training seeds. Mean over seeds at the fixed last step ({steps}); "
        f"in brackets the 95 % interval over seeds ({'; '.join(models.interval.unique())}); "
        f"sd: between {cells[0].run.evaluation.resamplings} evaluations of {int(models.samples.iloc[0]):,} samples of one model",
        f"{prefix}best {main} (optimistic): the lowest of each seed's evaluations during training and its final value; chosen among noisy "
        "values, so too good on average; never tested",
        f"{prefix}protocols: {hashes}",
        f"against: relative difference in {main} from that model with the same settings, paired by training seed (t test, alpha = {ALPHA}, "
        "without a correction for the number of rows)",
    ]


def _sampling(experiment: ExperimentCells, data: str) -> list[str]:
    """How samples of several steps are drawn, and of which classes, where that is not the default."""
    prefix = f"{paper_values.data_name(data)}: " if len(experiment.data) > 1 else ""
    notes = [f"{prefix}{few_steps_in_words(cell.run.evaluation)}" for cell in experiment.of(data) if cell.run.evaluation.times]
    if any(cell.run.evaluation.labels == "balanced" for cell in experiment.of(data)):
        notes.append(f"{prefix}samples are of each class equally often, a protocol of their own: the baselines, real data, are not shown")
    return notes


def few_steps_in_words(evaluation: Evaluation) -> str:
    """The levels and the re-noising of samples of several steps."""
    levels, several = ", ".join(f"{t:g}" for t in evaluation.times), len(evaluation.times) > 1
    count, which = (f"2 to {len(evaluation.times) + 1} steps", "further steps") if several else ("2 steps", "second step")
    noise = "fresh noise (stochastic" if evaluation.renoising == "stochastic" else "the noise of the first step (deterministic"
    return f"{count}: multistep consistency sampling, the {which} at t = {levels}, with {noise} re-noising)"


def _times_below_noise(rows: pd.DataFrame) -> list[str]:
    """The factor by which pure noise exceeds each model in the main metric."""
    data, metric = rows.data.iloc[0], main_metric(rows.data.iloc[0])
    rows = rows[(rows.metric == metric) & rows["mean"].notna()]
    noise, models = rows[rows.model == "pure noise"], rows[rows.kind == "model"]
    if noise.empty or models.empty:
        return []
    level = noise["mean"].iloc[0]
    parts = ", ".join(f"{model} {level / mean:.1f}" for model, mean in zip(models.model, models["mean"], strict=True))
    return [f"{paper_values.data_name(data)}: times below pure noise in {METRICS[metric].title} ({level:.3g}): {parts}"]


def _missing(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """Which wanted runs have no final values, by state and seeds."""
    loaded = cell_values.loaded
    notes: list[str] = []
    labels: dict[tuple[str, str, str], list[str]] = {}
    for cell in experiment.cells:
        states: dict[str, list[str]] = {}
        for seed in sorted(cell.wanted):
            if cell_values.final(cell.runs[seed], main_metric(cell.data)) is None:
                states.setdefault(loaded.state(cell.runs[seed]), []).append(str(seed))
        for state, seeds in states.items():
            labels.setdefault((state, paper_values.data_name(cell.data), ", ".join(seeds)), []).append(cell.label)
    return notes + [f"missing ({state}): {data}, {', '.join(names)}; seeds {seeds}" for (state, data, seeds), names in labels.items()]


def _provenance(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """Which seeds of a pooled table are the user's own, and which runs other code than today's has made."""
    loaded = cell_values.loaded
    notes = []
    if loaded.records == "both":
        parts = []
        for cell in experiment.cells:
            by_source: dict[str, list[int]] = {}
            for seed, run in cell.runs.items():
                if cell_values.final(run, main_metric(cell.data)):
                    by_source.setdefault(loaded.runs[run].source, []).append(seed)
            if by_source:
                seeds = ", ".join(f"{source} {', '.join(map(str, seeds))}" for source, seeds in sorted(by_source.items()))
                parts.append(f"{cell.label}: {seeds}")
        notes.append(f"seeds by source: {'; '.join(parts)}")
    used = [entry for cell in experiment.cells for entry in loaded.find(cell.runs.values()) if entry.done]
    if code := summarised(entry.made_by for entry in used):
        own = experiment.selection and any(entry.source == "own" for entry in used)
        more = f"; {experiment.selection.command('harness status')}" if own and experiment.selection else ""
        notes.append(f"not made by today's code: {code}{more}")
    return notes
