"""The pairs that the coupling of a finished run makes; its transport cost, velocity and proxy are defined on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.config.parts import BatchOT, GeneratorAugmented, Independent, Variational
from harness.config.run import Run
from harness.core.couplings import Coupling, Pairs
from harness.store.runs import Store
from harness.theory.estimate import Estimate, clustered, mean
from harness.theory.flow import Function, squared_norms
from harness.theory.oracle import draw_rows
from harness.theory.proxy import noise_like
from harness.training import trained_runs, user_couplings
from harness.training.batches import ALONE, Batches
from harness.training.trained_runs import TrainedRun


def dependent_rows(run: Run) -> int | None:
    """The number of rows that a run's coupling pairs jointly; None if it pairs each row independently."""
    coupling = run.coupling
    if isinstance(coupling, BatchOT):
        return coupling.size or run.train.batch
    independent = isinstance(coupling, Independent | Variational) or getattr(coupling, "variant", "") in ("gc", "fresh-noise", "reflow")
    return None if independent else run.train.batch


def frozen_predictor_run(run: Run, store: Store, device: torch.device) -> TrainedRun:
    """The finished run that predicts the endpoints of a run with a frozen predictor. Raises HarnessError when it does not exist."""
    coupling = run.coupling
    assert isinstance(coupling, GeneratorAugmented) and coupling.frozen
    return trained_runs.load(store.find(coupling.frozen), device, step=coupling.frozen_step)


@dataclass(frozen=True)
class RunPairs:
    """The coupling of a run; f predicts its endpoints, if it needs a predictor."""

    trained: TrainedRun
    coupling: Coupling
    f: Function | None

    @property
    def group(self) -> int | None:
        return dependent_rows(self.trained.run)

    @torch.no_grad()
    def draw(self, t: Tensor, draws: torch.Generator) -> Pairs:
        """(endpoint, noise), both like the data, of len(t) random data rows at the levels t (n,), coupled jointly."""
        data = self.trained.data
        x = data.batch(draw_rows(len(data), len(t), draws))
        return self.coupling.function(x, noise_like(x, draws), t.to(x), self._predict, draws)

    @torch.no_grad()
    def cost(self, batches: int) -> Estimate:
        """E|x' - z'|^2 of the pairs of the next `batches` training steps, at the noise levels of the end of training."""
        run, data = self.trained.run, self.trained.data
        source = Batches(run, data, ALONE, self.coupling)
        values = []
        for number in range(run.train.steps, run.train.steps + batches):
            step = source.couple(number, source(number), self._predict)
            values.append(squared_norms(step.x - step.z))
        return mean(torch.cat(values)) if self.group is None else clustered(torch.stack(values))

    def _predict(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        assert self.f is not None, "a coupling that asks for endpoints has a predictor"
        return self.f(x, sigma.to(x))


def _learned(encoder: torch.nn.Module | None) -> Callable[..., Pairs]:
    """The coupling of a trained encoder; it knows no classes."""
    assert encoder is not None, "a run with a learned coupling has an encoder"
    return lambda x, z, *_: (x, encoder(x, z)[0])


def pairs_of(trained: TrainedRun, store: Store) -> RunPairs:
    """The pairs of a finished run, whose endpoints are predicted by its frozen predictor, or else by its own EMA network.

    For a predictor "online" the EMA network replaces the weights of the last step, which are not stored. Raises HarnessError for a frozen
    predictor that does not exist.
    """
    coupling = user_couplings.build(trained.run)
    f: Function | None = None
    if isinstance(trained.run.coupling, Variational):
        coupling = replace(coupling, function=_learned(trained.network.encoder))
    if coupling.predictor == "frozen":
        f = frozen_predictor_run(trained.run, store, trained.data.rows.device).network
    elif coupling.predictor:
        f = trained.network
    return RunPairs(trained, coupling, f)
