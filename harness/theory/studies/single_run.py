"""What one finished run is measured for: R(theta), the transport cost of its model and of its pairs, the proxy of its coupling.

The velocity v_t is that of a coupling's own pairs. For IC it is exact, by the oracle of the run's data. For any other coupling it comes
from a denoiser trained on the same pairs (experiment figure2), and R(theta) is then about the pairs of that denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.run import BatchOT, GeneratorAugmented, Independent, Run, coupling_label, coupling_slug
from harness.core.randomness import generator
from harness.errors import HarnessError, unknown
from harness.theory.discrepancy import Times, derivatives, excess
from harness.theory.estimate import Estimate, clustered, mean
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN, Function, velocity_of
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import proxy, proxy_ic
from harness.theory.studies.common import Row, Setting, check_unconditional, row
from harness.theory.studies.figure3 import LEVELS, PAIR_BATCHES, WORK, curve_rows, shared_draws
from harness.theory.studies.run_pairs import Pairs, pairs_of, together
from harness.training import trained_runs
from harness.training.trained_runs import TrainedRun

ALPHAS = (2.0, 1.0)
BATCHES, NUMBERS = 32, 2**14
"""Of the integral over t: batches, and numbers of one: 256 digits, 64 rows where they are larger."""
MOST_ROWS = 8192
"""Rows of all batches together."""


@dataclass(frozen=True)
class Law:
    """The pairs of a coupling, and their velocity field."""

    pairs: Pairs
    velocity: Function
    told: str
    denoiser: TrainedRun | None = None

    @property
    def rows(self) -> int:
        return self.pairs.group or max(64, min(256, NUMBERS // self.pairs.found.data.dim))

    @property
    def batches(self) -> int:
        return max(4, min(BATCHES, MOST_ROWS // self.rows))


def check(what: Sequence[str]) -> None:
    """Raises HarnessError for anything but words of WHAT."""
    if not what:
        raise HarnessError("nothing to measure", where="--what", found="nothing", expected=", ".join(WHAT))
    for word in what:
        if word not in WHAT:
            raise unknown("measurement", word, WHAT, where="--what")


def measure(found: TrainedRun, what: Sequence[str], setting: Setting) -> list[Row]:
    """The rows of each word of `what`, of WHAT: discrepancy, transport, proxy.

    Raises HarnessError for another word, a run with labels, a level beyond the run's own, a coupling without a denoiser where its
    velocity is needed, a denoiser where a consistency model is, and data too large for the memory.
    """
    check(what)
    check_unconditional(found.run)
    found.network.bf16 = False  # measured in float32, whatever it was trained in
    return [made for word in dict.fromkeys(what) for made in WHAT[word](found, setting)]


def discrepancy(found: TrainedRun, setting: Setting) -> list[Row]:
    """R(theta) of (8) with lambda = 1 over the run's levels, for each alpha, and its integrand at single levels (discrepancy-at)."""
    run = _consistency(found, "R(theta)")
    law = law_of(found, setting)
    times = Times(min(SIGMA_MAX, run.noise.sigma_max), max(SIGMA_MIN, run.noise.sigma_min))
    setting.tell(
        f"{run.id}: R(theta) with lambda = 1 over t = {times.t_min:g} ... {times.T:g}, {law.batches} batches of {law.rows} {law.told}"
    )
    draws = generator(run.seed, "measure", 0)
    protocol = {"lambda": 1, "t": [times.t_min, times.T], "batches": law.batches, "rows": law.rows, "pairs": law.told}
    told = {"coupling": coupling_slug(run.coupling), "label": coupling_label(run.coupling), "run": run, "protocol": protocol}
    values: dict[float, list[Tensor]] = {alpha: [] for alpha in ALPHAS}
    for _ in range(law.batches):
        t = times.draw(law.rows, draws)
        for alpha, one in _integrands(found, law, t, draws).items():
            values[alpha].append(one / times.density(t))
    made = [row("discrepancy", run.data.name, clustered(torch.stack(v)), case=f"alpha = {a:g}", **told) for a, v in values.items()]
    for level in levels_of(run, setting):
        t = torch.full((law.rows,), level, dtype=torch.float64)
        at = [_integrands(found, law, t, draws) for _ in range(max(2, law.batches // 8))]
        for alpha in ALPHAS:
            each = torch.stack([one[alpha] for one in at])
            estimate = clustered(each) if law.pairs.group else mean(each)
            made.append(row("discrepancy-at", run.data.name, estimate, case=f"alpha = {alpha:g}", x=level, **told))
    return sorted(made, key=lambda one: (one["quantity"], one["case"]))


@torch.no_grad()
def _integrands(f: TrainedRun, law: Law, t: Tensor, draws: torch.Generator) -> dict[float, Tensor]:
    """Draws of E[|d_CT f|^alpha - |d_CD f|^alpha] at the levels t (n,), for each alpha from the same two products; (n,) float64."""
    x, z = law.pairs.draw(t, draws)
    cd, shift = derivatives(f, law.velocity, x, z, t.to(x))
    return {alpha: excess(cd, shift, alpha).double().cpu() for alpha in ALPHAS}


def transport(found: TrainedRun, setting: Setting) -> list[Row]:
    """c(t) with the run's own network, as in Figure 3, and the cost of the pairs that it trained on (truth: that of its last step)."""
    run = _consistency(found, "c(t)")
    oracle, draws, name = Oracle(found.data.rows), shared_draws(found.data), run.data.name
    levels = [0.0, *levels_of(run, setting)]
    setting.tell(f"{run.id}: c(t) at {len(levels) - 1} levels, {len(draws.x):,} pairs; {PAIR_BATCHES} batches of its own pairs")
    slug = coupling_slug(run.coupling)
    key = {"coupling": slug} if isinstance(run.coupling, GeneratorAugmented) else {"coupling": "gc", "case": f"by {slug}"}
    made = curve_rows(found, oracle, draws, levels, name, label=f"GC by iCT-{coupling_label(run.coupling)}", run=run, **key)
    made = [row("cost", name, draws.ic, coupling="ic", label="IC"), row("cost-data", name, draws.ic, coupling="ic", label="IC"), *made]
    actual = pairs_of(found, setting.store).cost(PAIR_BATCHES)
    recorded = [record for record in found.folder.records(on_damage=setting.tell) if record["metric"] == "pair_cost"]
    truth = None
    if recorded and getattr(run.coupling, "predictor", "") != "online":  # whose last weights are gone
        last = max(recorded, key=lambda record: record["step"])
        truth = Estimate(last["value"], last["se"] or float("nan"), last["n"])
    return [*made, row("pair-cost", name, actual, coupling=slug, truth=truth, run=run, protocol={"batches": PAIR_BATCHES})]


def proxy_rows(found: TrainedRun, setting: Setting) -> list[Row]:
    """Rtil_t of the run's coupling: exactly for IC, by the denoiser of its pairs for any other, both for a denoiser of IC's."""
    run = found.run
    levels, name, slug = levels_of(run, setting), run.data.name, coupling_slug(run.coupling)
    made, exact = [], {}
    if isinstance(run.coupling, Independent):
        oracle = Oracle(found.data.rows)
        points, d = oracle.points.shape
        rows = max(64, min(points, MOST_ROWS, int(WORK[oracle.device.type] / (2 * len(levels) * points * (4 * d + 32)))))
        x = oracle.data(draw_rows(points, rows, generator(run.seed, "measure", 1)))
        setting.tell(f"{run.id}: Rtil_t of IC exactly, {rows:,} of {points:,} data, each with 2 noises")
        draws = generator(run.seed, "measure", 2)
        exact = {t: proxy_ic(oracle, x, t, draws, whole=rows == points) for t in levels}
        told = {"coupling": slug, "case": "exact", "label": "IC, exact", "protocol": {"by": "oracle", "rows": rows}}
        made += [row("rtil", name, estimate, x=t, **told) for t, estimate in exact.items()]
        if run.objective.kind != "denoiser":
            return made
    law = law_of(found, setting, exact=False)
    setting.tell(f"{run.id}: Rtil_t, {law.batches} batches of {law.rows} {law.told}")
    n, data = law.batches * law.rows, found.data
    x = data.batch(draw_rows(len(data), n, generator(run.seed, "measure", 3)))
    z = torch.randn(x.shape, generator=generator(run.seed, "measure", 4)).to(x)
    told = {"coupling": slug, "label": coupling_label(run.coupling), "run": run, "protocol": {"by": "denoiser", "pairs": n, "of": law.told}}
    for t in levels:
        draws, group = generator(run.seed, "measure", 5), law.pairs.group
        pairs = law.pairs.coupling.function, law.denoiser, x, z, t, draws, law.pairs.f
        made.append(row("rtil", name, proxy(*pairs, batch=law.rows, dependent=group is not None), x=t, truth=exact.get(t), **told))
    return made


WHAT: dict[str, Callable[[TrainedRun, Setting], list[Row]]] = {"discrepancy": discrepancy, "transport": transport, "proxy": proxy_rows}


def _consistency(found: TrainedRun, what: str) -> Run:
    """The run, of a consistency model. Raises HarnessError for a denoiser."""
    if found.run.objective.kind == "denoiser":
        raise HarnessError(
            f"a denoiser has no {what}: it is no consistency function",
            where=found.run.id,
            found="objective.kind = denoiser",
            expected="a consistency model",
            nearest="--what proxy",
        )
    return found.run


def levels_of(run: Run, setting: Setting) -> list[float]:
    """The levels asked for, or those of LEVELS that the run was trained at. Raises HarnessError for one that it was not."""
    low, high = max(SIGMA_MIN, run.noise.sigma_min), min(SIGMA_MAX, run.noise.sigma_max)
    for t in setting.levels or ():
        if not low <= t <= high:
            close = min(max(t, low), high)
            raise HarnessError("noise level beyond this run's", where="--t", found=t, expected=f"{low:g} <= t <= {high:g}", nearest=close)
    return sorted(set(setting.levels or (t for t in LEVELS if low <= t <= high)))


def law_of(found: TrainedRun, setting: Setting, exact: bool = True) -> Law:
    """The pairs whose velocity is known, and that velocity: exact for IC, if that is wanted, else by the denoiser of the pairs.

    Raises HarnessError for a coupling without a denoiser.
    """
    if exact and isinstance(found.run.coupling, Independent):
        oracle = Oracle(found.data.rows)
        return Law(pairs_of(found, setting.store), oracle.velocity, f"pairs of IC, v exact on {len(oracle):,} data")
    denoiser = found if found.run.objective.kind == "denoiser" else denoiser_of(found.run, setting)
    pairs = pairs_of(denoiser, setting.store)
    return Law(pairs, velocity_of(denoiser), f"pairs of {denoiser.run.id}, v by that denoiser", denoiser)


def denoiser_of(run: Run, setting: Setting) -> TrainedRun:
    """The finished denoiser of a run's pairs, one of the run's seed before others. Raises HarnessError when there is none."""
    there = []
    for folder in setting.store.folders():
        if "-denoiser-" in folder.id and folder.result() is not None:
            other = trained_runs.run_of(folder)
            if _of_the_same_pairs(run, other):
                there.append((other.seed != run.seed, other.seed, folder))
    if not there:
        raise HarnessError(
            f"a coupling without a denoiser: v_t of {coupling_label(run.coupling)} is known only from a denoiser of its pairs",
            where=run.id,
            found="no finished denoiser of these pairs",
            expected="one, as the experiment figure2 trains them",
            nearest=f"harness sweep figure2 --scale {run.scale} --seeds {run.seed},",
        )
    return trained_runs.load(min(there, key=lambda one: one[:2])[2], setting.device)


def _of_the_same_pairs(run: Run, other: Run) -> bool:
    if (run.data, other.objective.kind) != (other.data, "denoiser"):
        return False
    ours, theirs = run.coupling, other.coupling
    if isinstance(ours, GeneratorAugmented):
        return isinstance(theirs, GeneratorAugmented) and theirs.frozen == run.id and theirs.variant == ours.variant
    if isinstance(ours, BatchOT):
        return isinstance(theirs, BatchOT) and together(run) == together(other) and run.protocol.ot_cost == other.protocol.ot_cost
    return ours == theirs
