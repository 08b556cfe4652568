"""How many training seeds would decide a claim that is inconclusive, and what they cost by the training times measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.locations import results_root
from harness.reporting import claims_theory
from harness.reporting.cells import family, selected_runs
from harness.reporting.load import LoadedResults
from harness.reporting.paper_claims import Claim
from harness.reporting.verdicts import ONE_SEED, ClaimTest, Effect, Evidence, Outcome, SeedPlan, outcomes_of
from harness.stats.differences import seeds_needed

POWER = 0.8
LEAST = 3
"""Seeds that a claim of one seed needs before its spread is known well enough to plan with."""
MOST = 200
"""No plan has more seeds than this."""
_MEASURED = frozenset(judge.__name__ for judge in claims_theory.JUDGES)
"""Judges of claims about measurements, which follow the training."""


@dataclass(frozen=True)
class Need:
    """What one test needs. why: what `seeds` would do, with {} in their place. n: the seeds that it has."""

    seeds: int
    why: str
    n: int


def seed_plan(claim: Claim, tests: Sequence[ClaimTest], evidence: Evidence) -> SeedPlan | None:
    """The seeds that would decide every open test of a claim, each with a power of POWER; None if no test is open for want of seeds.

    A test needs the seeds for the first of its effects that is still open: the paper's, unless the interval here excludes it, and the
    margin, unless the seeds that were run would find it in any case; else an effect of the size measured here.
    """
    pairs = zip(tests, outcomes_of(tests), strict=True)
    needs = [need for test, outcome in pairs if outcome is Outcome.INCONCLUSIVE and not test.guard and (need := _need(test))]
    if not needs:
        return None
    largest = max(needs, key=lambda need: need.seeds)
    if largest.seeds > MOST:
        return SeedPlan(MOST + 1, largest.why.replace("{}", f"more than {MOST} seeds"))
    try:
        return _priced(claim, evidence, largest)
    except HarnessError:  # the experiment is gone or has no runs of this scale: there is nothing to price
        return SeedPlan(largest.seeds, largest.why)


def _need(test: ClaimTest) -> Need | None:
    """None if more seeds change nothing."""
    if test.reason == ONE_SEED:
        return Need(LEAST, "one seed says nothing about the spread over seeds; {} allow a first test", 1)
    difference = test.difference
    if difference is None or not test.tested or not test.effects:
        return None
    excluded: list[str] = []
    measured = Effect(abs(difference.mean), f"an effect of the size measured here ({difference.mean:+.3g})")
    for effect in (*test.effects, measured):
        if effect.of_paper and difference.low is not None and difference.low > -effect.size:
            excluded.append(effect.words)
            continue
        seeds = seeds_needed(difference, effect.size, POWER)
        if seeds is not None and seeds > difference.n:
            before = f"the interval of {difference.n} seeds excludes {excluded[0]}; " if excluded else ""
            return Need(seeds, f"{before}{{}} would decide {effect.words} with {POWER:.0%} power", difference.n)
    return None


def _priced(claim: Claim, evidence: Evidence, need: Need) -> SeedPlan:
    """The plan with the runs that its commands would train, and their time by the mean of the finished runs that differ in the seed only.

    Published runs, shown where there are no own ones, do not count as trained: the report shows either of the two sets.
    """
    loaded, scale = evidence.cell_values.loaded, evidence.experiment.scale
    root = None if loaded.root == results_root() else loaded.root
    recorded = sorted({entry.run.seed for entry in loaded.of_scale(scale)})
    fresh = [seed for seed in range(need.seeds) if seed not in recorded]
    seeds = sorted([*recorded, *fresh][: need.seeds])
    fresh = [seed for seed in fresh if seed in seeds]
    shown = evidence.experiment.selection or Selection(claim.experiment, scale, results=root)
    selection = replace(shown, experiment=claim.experiment, seeds=tuple(seeds))  # a report of other runs shows this claim as well
    declared = tuple(seed for seed in seeds if seed not in fresh[1:])  # all seeds without runs cost the same, so one stands for them
    runs = {run.id: run for run in selected_runs(replace(selection, seeds=declared), loaded)}
    known = {entry.id: entry.run for entry in loaded.runs.values()} | runs
    seconds = _seconds(loaded, scale, known)
    published = loaded.records == "published"
    wanted = [run for run in runs.values() if published or run.id not in loaded.runs or not loaded.runs[run.id].done]
    wanted += [run for run in wanted if run.seed in fresh[:1] for _ in fresh[1:]]
    times = [time for run in wanted if (time := seconds.get(family(run, known))) is not None]
    hours = fmean(times) * len(wanted) / 3600 if times else None
    commands = [selection.command("harness sweep")]
    if claim.judge in _MEASURED:
        commands += [selection.command(f"harness {command}") for command in ("measure", "report")]
    more = need.seeds if published else need.seeds - need.n
    return SeedPlan(need.seeds, need.why, more, len(wanted), hours, " && ".join(commands))


def _seconds(loaded: LoadedResults, scale: str, known: Mapping[str, Run]) -> dict[str, float]:
    """Mean training seconds of the finished runs of a scale, by what they share but for the seed."""
    times: dict[str, list[float]] = {}
    for entry in loaded.of_scale(scale):
        if entry.training_seconds is not None:
            times.setdefault(family(entry.run, known), []).append(entry.training_seconds)
    return {name: fmean(values) for name, values in times.items()}
