"""The one training loop: draw a batch, couple it, step, average, and at fixed steps save and evaluate.

Every random draw is addressed by (seed, stream, step, rank), so a run that was stopped at any step resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.config.parts import ConsistencyTraining, EasyConsistencyTuning, Variational
from harness.config.run import Run
from harness.core import consistency, couplings
from harness.core.consistency import Preconditioned
from harness.core.networks.edm2 import force_normalisation, normalised_weights
from harness.core.randomness import address
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.training import user_couplings
from harness.training.batches import ALONE, Batches, Processes, Step, step_rows
from harness.training.fixed_sizes import in_fixed_sizes
from harness.training.memory import MicroBatch, parts
from harness.training.model import Model, ema_decay, update_ema
from harness.training.optimisation import ZeroedGradients, set_learning_rate

PARTS_APART = 2**20
"""Added to the rank for each part of a batch, in the address of its dropout masks: more than there are processes."""
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
    loss: Callable[[int, float, int], None] = lambda number, mean, steps: None
    """Gets the number of each evaluation step, the mean loss per row over the steps since the evaluation before, and their number."""


def losses(run: Run, f: Callable[..., Tensor], step: Step, dropout: int) -> Tensor:
    """The loss of each row of a step; (n,). dropout: seed of the dropout masks."""
    if run.objective.kind == "denoiser":
        return consistency.denoising_losses(f, step.x, step.z, step.high, run.noise.sigma_data, dropout, step.labels)
    distance = distance_of(run.objective, step.x[0].numel())
    return consistency.pair_losses(f, step.x, step.z, step.low, step.high, step.weight, distance, dropout, step.labels)


def distance_of(objective: ConsistencyTraining | EasyConsistencyTuning, dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, y) of an objective for rows of `dim` values; (n,)."""
    if isinstance(objective, EasyConsistencyTuning):
        return partial(consistency.pseudo_huber, c=objective.c)
    return partial(consistency.distance, objective.distance, c=objective.huber * math.sqrt(dim))


def endpoint_predictor(
    network: Preconditioned, labels: Tensor | None, most: int | None = None, fixed_sizes: bool = False
) -> couplings.Predict:  # fmt: skip
    """predict(x_sigma, sigma, rows) of a coupling: no gradient, no dropout. most: rows that go through the network at once.

    fixed_sizes: as `in_fixed_sizes`; needs `most`.
    """

    @torch.no_grad()
    def predict(x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        of_rows = None if labels is None else labels[rows]
        with _without_dropout(network):
            if fixed_sizes:
                assert most is not None
                return in_fixed_sizes(network, most)(x, sigma, of_rows)
            pieces = [slice(start, start + (most or len(x))) for start in range(0, len(x), most or max(1, len(x)))]
            outputs = [network(x[piece], sigma[piece], None if of_rows is None else of_rows[piece]) for piece in pieces]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return predict


@contextmanager
def _without_dropout(network: nn.Module) -> Iterator[None]:
    if not network.training:  # to set a mode takes as long as a small layer
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()


def couple(batches: Batches, number: int, step: Step, predictor: Preconditioned | None, rows: int) -> Step:
    """Step `number` with its coupled pairs; at most `rows` rows go through the predictor at once."""
    if predictor is None:
        return batches.couple(number, step, None)
    most = min(rows, len(step.x))
    return batches.couple(number, step, endpoint_predictor(predictor, step.labels, most, batches.run.train.static_rows))


def gradients(run: Run, student: nn.Module, step: Step, number: int, scale: float, rank: int, rows: int) -> Tensor:
    """Adds the gradient of scale * (sum of the losses) to the student's, at most `rows` rows at a time; returns that loss, detached.

    number: of the step, by which the dropout masks of each part are addressed. With a learned coupling, the noise of each part first goes
    through the encoder, and its divergence is a part of the loss.
    """
    losses_of_parts = []
    pieces = list(parts(step, rows))
    for index, part in enumerate(pieces):
        last = index == len(pieces) - 1
        synchronised = student.no_sync() if isinstance(student, DistributedDataParallel) and not last else nullcontext()
        with synchronised:
            part, penalty = encoded(run, student, part)
            of_rows = losses(run, student, part, dropout=address(run.seed, "dropout", number, rank + index * PARTS_APART))
            loss = (of_rows if penalty is None else of_rows + penalty).sum() * scale
            loss.backward()
        losses_of_parts.append(loss.detach())
    return losses_of_parts[0] if len(pieces) == 1 else torch.stack(losses_of_parts).sum()


def encoded(run: Run, student: nn.Module, step: Step) -> tuple[Step, Tensor | None]:
    """The step with the noise that a learned coupling gives its rows, and what this adds to the loss of each row, (n,).

    Other couplings: the step as it is, and None. student: the online network, or its data-parallel wrapper.
    """
    if not isinstance(run.coupling, Variational):
        return step, None
    network = student.module if isinstance(student, DistributedDataParallel) else student
    assert isinstance(network, Preconditioned) and network.encoder is not None, "a run with a learned coupling has an encoder"
    z, divergence = network.encoder(step.x, step.z, step.labels)
    return replace(step, z=z), run.coupling.kl_weight * divergence


def _report(zeroed: ZeroedGradients, step: int) -> None:
    """Prints how much of the gradients was not finite since the last report. Raises Diverged where no step had a finite gradient."""
    entries, affected, steps = zeroed.take()
    if affected == steps >= CHECK_EVERY:
        raise Diverged(f"the gradient was not finite in any of the {steps} steps up to {step}")
    if entries:
        what = f"{entries:,} entries of the gradients of {affected} of {steps} steps"
        print(f"step {step}: {what} were not finite and were set to 0", flush=True)


def evaluation_steps(run: Run) -> set[int]:
    """Steps after which the run is evaluated: every `evaluation.every` and the last."""
    return {*range(run.evaluation.every, run.train.steps + 1, run.evaluation.every), run.train.steps}


def train(
    run: Run, data: Dataset, model: Model, hooks: Hooks, *,
    frozen: Preconditioned | None = None, processes: Processes = ALONE, assign_ahead: bool = True, micro_batch: int | None = None,
) -> bool:  # fmt: skip
    """Trains from model.step to run.train.steps. True when finished; False when hooks.stop() ended it early, after a checkpoint.

    frozen: the endpoint predictor of a coupling with predictor = "frozen". assign_ahead: as in `Batches`.
    micro_batch: rows that go through the networks at once; None for all, and for fewer where the GPU's memory runs out.
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
    micro = MicroBatch(micro_batch or run.train.batch, shrinks=processes.count == 1)
    evaluations, first = evaluation_steps(run), model.step
    model.losses.start(processes, device)
    unit_weights = normalised_weights(model.online)  # none but in EDM2's network
    finite = torch.ones((), dtype=torch.bool, device=device)
    zeroed = ZeroedGradients(device) if run.train.zero_nonfinite else None

    with closing(Batches(run, data, processes, coupling, assign_ahead=assign_ahead)) as batches:
        for number in range(first, run.train.steps):
            # Force EDM2's weights to unit magnitude before any network runs; the EMA averaged them as the optimizer left them.
            force_normalisation(unit_weights)

            # Draw and couple.
            batch = micro.attempt(partial(couple, batches, number, batches(number), predictor))

            # Step.
            model.optimizer.zero_grad(set_to_none=True)
            scale = processes.count / len(step_rows(run, len(data), number))
            step = partial(gradients, run, student, batch, number, scale, processes.rank)
            loss = micro.attempt(step, clear=partial(model.optimizer.zero_grad, set_to_none=True))
            if zeroed:
                zeroed.zero(model.online.parameters())
            set_learning_rate(model.optimizer, run.train, number)
            model.optimizer.step()
            model.step = number + 1

            # Average.
            update_ema(model.average, model.weights, ema_decay(run, number))

            # Check and report progress.
            finite &= loss.isfinite() | (zeroed is not None)
            model.losses.add(loss)
            stop, evaluate = hooks.stop(), model.step in evaluations
            save = stop or model.step % run.checkpoint_every == 0 or model.step in (*run.keep_steps, run.train.steps)
            if save or evaluate or number == first or model.step % CHECK_EVERY == 0:
                model.loss = loss.item()
                if zeroed:
                    _report(zeroed, model.step)
                # The update of this step may have spoilt the weights although its loss was finite.
                if not (finite & nn.utils.get_total_norm(model.online.parameters()).isfinite()).item():
                    since = max(0, model.step - CHECK_EVERY)
                    raise Diverged(f"the loss or a weight was not finite between steps {since} and {model.step}")
                hooks.progress(model)

            # Evaluate, save, stop.
            if evaluate:
                with torch.no_grad():
                    pairs = encoded(run, student, batch)[0]
                hooks.pairs(model.step, pairs)
                hooks.loss(model.step, *model.losses.take())
                hooks.evaluate(model)
            if save:
                model.losses.share()
                hooks.save(model)
            if stop and model.step < run.train.steps:
                return False
    return True
