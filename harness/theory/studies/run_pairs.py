"""The pairs that a finished run's own coupling makes: what its transport cost, its velocity and its proxy are about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.run import BatchOT, Independent, Run
from harness.core import couplings
from harness.store.runs import Store
from harness.theory.estimate import Estimate, clustered, mean
from harness.theory.flow import Function
from harness.theory.oracle import draw_rows
from harness.theory.proxy import noise_like
from harness.theory.studies.common import check_unconditional
from harness.training import trained_runs, user_couplings
from harness.training.batches import Batches, Processes
from harness.training.trained_runs import TrainedRun


def together(run: Run) -> int | None:
    """How many rows of a run's pairs depend on each other; None where each row stands alone."""
    coupling = run.coupling
    if isinstance(coupling, BatchOT):
        return coupling.size or run.train.batch
    alone = isinstance(coupling, Independent) or getattr(coupling, "variant", "") in ("gc", "fresh-noise", "reflow")
    return None if alone else run.train.batch


@dataclass(frozen=True)
class Pairs:
    """The coupling of a run. f: the network that predicts its endpoints, where it asks for one."""

    found: TrainedRun
    coupling: couplings.Coupling
    f: Function | None

    @property
    def group(self) -> int | None:
        return together(self.found.run)

    def draw(self, t: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """(endpoint, noise) of len(t) random data rows at the levels t (n,), both like the data. One assignment, where there is one."""
        data = self.found.data
        x = data.batch(draw_rows(len(data), len(t), draws))
        z = noise_like(x, draws)
        with torch.no_grad():
            return self.coupling(x, z, t.to(x), self._predict, draws)

    def cost(self, batches: int) -> Estimate:
        """E|x' - z'|^2 of the pairs that the trainer would draw next, at the levels of the training's end."""
        run, data = self.found.run, self.found.data
        source = Batches(run, data, Processes(), self.coupling, data.rows.device)
        values = []
        for number in range(run.train.steps, run.train.steps + batches):
            with torch.no_grad():
                step = source.couple(number, source.draw(number), self._predict)
            values.append((step.x - step.z).flatten(1).square().sum(1, dtype=torch.float64))
        return mean(torch.cat(values)) if self.group is None else clustered(torch.stack(values))

    def _predict(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.f(x, sigma.to(x))


def pairs_of(found: TrainedRun, store: Store) -> Pairs:
    """The coupling of a finished run, with its predictor: a frozen run's network, else its own EMA network, which for "online" stands in
    for the weights of the last step. Raises HarnessError for a run with labels, and for a frozen predictor that is not there."""
    check_unconditional(found.run)
    coupling, f = user_couplings.build(found.run), None
    if coupling.predictor == "frozen":
        settings = found.run.coupling
        f = trained_runs.load(store.find(settings.frozen), found.data.rows.device, step=settings.frozen_step).network
    elif coupling.predictor:
        f = found.network
    return Pairs(found, coupling, f)
