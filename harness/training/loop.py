"""The one training loop: draw a batch, couple it, step, average, and at fixed steps save and evaluate.

Every random draw is addressed by (seed, stream, step, rank), so a run stopped anywhere goes on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from harness.config.run import Run
from harness.core import consistency, couplings
from harness.core.consistency import Preconditioned
from harness.core.randomness import address, generator
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.training import user_couplings
from harness.training.batches import Batches, Processes, global_rows, levels_of_step
from harness.training.model import Model, ema_decay, update_ema

CHECK_EVERY = 50
"""Steps between looks at the loss, which make the device wait."""


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


@dataclass(frozen=True)
class Hooks:
    """What happens at fixed steps; each gets the model. `stop` is asked after every step."""

    save: Callable[[Model], None] = lambda model: None
    evaluate: Callable[[Model], None] = lambda model: None
    progress: Callable[[Model], None] = lambda model: None
    stop: Callable[[], bool] = lambda: False
    pairs: Callable[[int, Tensor, Tensor], None] | None = None
    """Sees (step, x', z') of the trainer's own pairs at every evaluation step."""


def losses(
    run: Run, f: Callable, x: Tensor, z: Tensor, low: Tensor, high: Tensor, weight: Tensor, dropout: int, labels: Tensor | None = None
) -> Tensor:
    """The loss of each row of a step; (n,)."""
    if run.objective.kind == "denoiser":
        return consistency.denoising_losses(f, x, z, high, run.noise.sigma_data, dropout, labels)
    kind = getattr(run.objective, "distance", "norm")
    c = getattr(run.objective, "huber", 0.0) * math.sqrt(x[0].numel())
    return consistency.pair_losses(f, x, z, low, high, weight, lambda a, b: consistency.distance(kind, a, b, c), dropout, labels)


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
    run: Run, data: Dataset, model: Model, hooks: Hooks, *, frozen: Preconditioned | None = None, processes: Processes | None = None
) -> bool:
    """Trains from model.step to run.train.steps. True when finished, False when hooks.stop() asked for the end (a checkpoint is saved).

    Raises Diverged when a loss or a weight is not finite, before anything is evaluated or saved; what was saved before stays.
    """
    processes = processes or Processes()
    if run.train.batch < processes.count:
        raise HarnessError("fewer rows than processes", where="train.batch", found=run.train.batch, expected=f"at least {processes.count}")
    device = next(model.online.parameters()).device
    coupling = user_couplings.build(run)
    pool = ThreadPoolExecutor(1, "pairs") if coupling.ahead else None
    batches = Batches(run, data, processes, coupling, device, pool)
    student = model.online
    if processes.count > 1:
        student = DistributedDataParallel(model.online, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)
    network = {"ema": model.ema, "online": model.online, "frozen": frozen}.get(coupling.predictor)
    evaluations = evaluation_steps(run)
    finite = torch.ones((), dtype=torch.bool, device=device)
    try:
        for step in range(model.step, run.train.steps):
            x, z, labels = batches(step)
            rows = global_rows(run, len(data), step)
            low, high, weight = (level[processes.rows(rows)].to(device) for level in levels_of_step(run, step, rows))
            if not coupling.ahead:
                predict = endpoint_predictor(network, labels) if network else None
                x, z = coupling(x, z, low, predict, generator(run.seed, "mask", step, processes.rank))
            dropout = address(run.seed, "dropout", step, processes.rank)
            each = losses(run, student, x, z, low, high, weight, dropout, labels)
            loss = each.sum() * (processes.count / rows)
            model.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            model.optimizer.step()
            update_ema(model.ema, model.online, ema_decay(run, step))
            finite &= loss.detach().isfinite()
            model.step = step + 1

            stop, due = hooks.stop(), model.step in evaluations
            keep = stop or model.step % run.checkpoint_every == 0 or model.step in (*run.keep_steps, run.train.steps)
            if keep or due or model.step % CHECK_EVERY == 0:
                model.loss = loss.item()
                # This step's update may have spoilt the weights although its loss was finite.
                if not (finite & torch.nn.utils.get_total_norm(model.online.parameters()).isfinite()).item():
                    since = max(0, model.step - CHECK_EVERY)
                    raise Diverged(f"the loss or a weight was not finite between steps {since} and {model.step}")
                hooks.progress(model)
            if due:
                if hooks.pairs:
                    hooks.pairs(model.step, x, z)
                hooks.evaluate(model)
            if keep:
                hooks.save(model)
            if stop and model.step < run.train.steps:
                return False
    finally:
        if pool:
            pool.shutdown(wait=True, cancel_futures=True)
    return True
