"""The one training loop: draw a batch, couple it, step, average, and at fixed steps save and evaluate.

Every random draw is addressed by (seed, stream, step, rank), so a run that was stopped at any step resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.config.run import Run
from harness.core import consistency, couplings
from harness.core.consistency import Preconditioned
from harness.core.randomness import address
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.training import user_couplings
from harness.training.batches import ALONE, Batches, Processes, Step, step_rows
from harness.training.model import Model, ema_decay, update_ema

CHECK_EVERY = 50
"""Steps between checks that the loss is finite; each check synchronises the GPU."""


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop at fixed steps. stop is called after every step, progress after the first one and every check of the loss."""

    save: Callable[[Model], None] = lambda model: None
    evaluate: Callable[[Model], None] = lambda model: None
    progress: Callable[[Model], None] = lambda model: None
    stop: Callable[[], bool] = lambda: False
    pairs: Callable[[int, Step], None] = lambda number, step: None
    """Gets the number of each evaluation step and the pairs that it trained on."""


def losses(run: Run, f: Callable[..., Tensor], step: Step, dropout: int) -> Tensor:
    """The loss of each row of a step; (n,). dropout: seed of the dropout masks."""
    if run.objective.kind == "denoiser":
        return consistency.denoising_losses(f, step.x, step.z, step.high, run.noise.sigma_data, dropout, step.labels)
    kind = getattr(run.objective, "distance", "norm")
    c = getattr(run.objective, "huber", 0.0) * math.sqrt(step.x[0].numel())
    distance = partial(consistency.distance, kind, c=c)
    return consistency.pair_losses(f, step.x, step.z, step.low, step.high, step.weight, distance, dropout, step.labels)


def endpoint_predictor(network: Preconditioned, labels: Tensor | None) -> couplings.Predict:
    """predict(x_sigma, sigma, rows) of a coupling: no gradient, no dropout."""

    @torch.no_grad()
    def predict(x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        training = network.training
        network.eval()
        out = network(x, sigma, None if labels is None else labels[rows])
        network.train(training)
        return out

    return predict


def evaluation_steps(run: Run) -> set[int]:
    """Steps after which the run is evaluated: every `evaluation.every` and the last."""
    return {*range(run.evaluation.every, run.train.steps + 1, run.evaluation.every), run.train.steps}


def train(
    run: Run, data: Dataset, model: Model, hooks: Hooks, *,
    frozen: Preconditioned | None = None, processes: Processes = ALONE, assign_ahead: bool = True,
) -> bool:  # fmt: skip
    """Trains from model.step to run.train.steps. True when finished; False when hooks.stop() ended it early, after a checkpoint.

    frozen: the endpoint predictor of a coupling with predictor = "frozen". assign_ahead: solve the next batch-OT assignment in a thread.
    Raises Diverged when a loss or a weight is not finite, before anything is evaluated or saved; what was saved before stays.
    """
    # Initialise.
    if run.train.batch < processes.count:
        raise HarnessError("fewer rows than processes", where="train.batch", found=run.train.batch, expected=f"at least {processes.count}")
    device = next(model.online.parameters()).device
    coupling = user_couplings.build(run)
    predictor = {None: None, "ema": model.ema, "online": model.online, "frozen": frozen}[coupling.predictor]
    student: nn.Module = model.online
    if processes.count > 1:
        student = DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)
    evaluations, first = evaluation_steps(run), model.step
    finite = torch.ones((), dtype=torch.bool, device=device)

    with closing(Batches(run, data, processes, coupling, assign_ahead=assign_ahead)) as batches:
        for number in range(first, run.train.steps):
            # Draw and couple.
            batch = batches(number)
            batch = batches.couple(number, batch, endpoint_predictor(predictor, batch.labels) if predictor else None)

            # Step.
            row_losses = losses(run, student, batch, dropout=address(run.seed, "dropout", number, processes.rank))
            loss = row_losses.sum() * (processes.count / len(step_rows(run, len(data), number)))
            model.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            model.optimizer.step()
            model.step = number + 1

            # Average.
            update_ema(model.ema, model.online, ema_decay(run, number))

            # Check and report progress.
            finite &= loss.detach().isfinite()
            stop, evaluate = hooks.stop(), model.step in evaluations
            save = stop or model.step % run.checkpoint_every == 0 or model.step in (*run.keep_steps, run.train.steps)
            if save or evaluate or number == first or model.step % CHECK_EVERY == 0:
                model.loss = loss.item()
                # The update of this step may have spoilt the weights although its loss was finite.
                if not (finite & nn.utils.get_total_norm(model.online.parameters()).isfinite()).item():
                    since = max(0, model.step - CHECK_EVERY)
                    raise Diverged(f"the loss or a weight was not finite between steps {since} and {model.step}")
                hooks.progress(model)

            # Evaluate, save, stop.
            if evaluate:
                hooks.pairs(model.step, batch)
                hooks.evaluate(model)
            if save:
                hooks.save(model)
            if stop and model.step < run.train.steps:
                return False
    return True
