"""A trained model as people use it: samples, its consistency function or denoiser, trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.data import datasets
from harness.data.catalogue import check_content, info_of
from harness.errors import HarnessError, printable, unknown
from harness.metrics.features import quantise
from harness.metrics.sampling import Steps, draw, in_halves, noise, sample_classes
from harness.sharing.facts import facts_of
from harness.sharing.weights import SUFFIX, read_weights
from harness.store.runs import RunFolder, Store
from harness.theory.flow import at_level, karras_levels, noised, trajectory
from harness.training import trained_runs
from harness.training.model import identity_level
from harness.training.trained_runs import Which

BATCH = 50
"""Rows that go through the network at once, from a multiple of it on: a row has the same result whatever is sampled with it."""
MOST = 10**7
"""The largest number of samples of one call or export."""
LARGEST_SEED = 2**31 - 1
MOST_TIMES = 14
"""Independent draws of noise for one sample, besides the first (harness.metrics.sampling)."""
Labels = Literal["data", "balanced"] | int | Sequence[int] | np.ndarray | Tensor | None
"""Classes of samples: one class for all, one for each sample, "balanced" (the classes in turn), "data" (as often as in the training data),
or None for what the run's protocol says."""


@dataclass(frozen=True)
class Trajectory:
    """x along noise levels. levels (k,), float64, descending. points (k, n, ...): points[i] belongs to levels[i]."""

    levels: Tensor
    points: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A trained consistency model, or denoiser, on one device; in eval mode, without gradients of its weights.

    `model(x, sigma)` is its function: f(x, sigma) of a consistency model, equation (3) of the paper, or D(x, sigma) of a denoiser.
    """

    run: Run
    """The complete configuration of its training."""
    network: Preconditioned
    """The function as a torch module; the weights of the network F are named as in EDM's files, after the prefix `model.`."""
    facts: Mapping[str, Any]
    """What is known about it: final metrics with n and interval, by which code it was made, which weights these are."""
    source: Path
    """The run folder or file of weights that it was loaded from."""

    def __repr__(self) -> str:
        weights = f"{self.facts['weights']} weights at step {self.facts['step']:,}"
        return f"TrainedModel({printable(self.facts['run'])}, {weights}, on {self.device})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W), or (d,) for points."""
        return info_of(self.run.data).shape

    @property
    def classes(self) -> int:
        """The number of classes that the model is conditioned on; 0 for an unconditional model."""
        return info_of(self.run.data).classes if self.run.data.labels else 0

    @property
    def is_images(self) -> bool:
        """False for the points of a toy set."""
        return len(self.shape) == 3

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> TrainedModel:
        """The model on another device; the weights themselves move, as for a torch module."""
        return replace(self, network=self.network.to(device))

    def __call__(self, x: Tensor, sigma: float | Tensor, labels: Labels = None) -> Tensor:
        """The function at (x, sigma), differentiable in x.

        x: (n, *shape), at noise level sigma: a number or one per row (n,). labels: for a conditional model, one class for all rows or one
        per row. Returns (n, *shape). Raises HarnessError for another shape, a negative level, or classes that the model does not know.
        """
        if tuple(x.shape[1:]) != self.shape:
            expected = f"(n, {', '.join(map(str, self.shape))})"
            raise HarnessError("x of another shape", where="x", found=tuple(x.shape), expected=expected)
        levels = torch.as_tensor(sigma, device=self.device).float()
        if levels.ndim > 1 or (levels.ndim == 1 and len(levels) != len(x)) or not bool((levels >= 0).all()):
            raise HarnessError(
                "no noise levels of these rows", where="sigma", found=sigma, expected=f"a number, or {len(x)}, none negative"
            )
        if self.classes and (labels is None or isinstance(labels, str)):
            raise HarnessError(
                "this model needs classes", where="labels", found=labels, expected=f"0 to {self.classes - 1}, one or one per row"
            )
        rows = range(len(x))
        classes = self._classes_of(labels, rows, 0)(rows)
        return self.network(x.to(self.device, torch.float32), levels.expand(len(x)), self._one_hot(classes))

    def _classes_of(self, labels: Labels, rows: range, seed: int) -> Callable[[range], Tensor | None]:
        """The classes of samples, as a function of their numbers. rows: the numbers to which a sequence of classes belongs; the first and
        the last class hold beyond them. Raises HarnessError for classes that the model does not have, and without the training data where
        they are needed."""
        if not self.classes:
            if labels is not None:
                raise HarnessError("this model is not conditional", where="labels", found=labels, expected="None")
            return lambda part: None
        law = self.run.evaluation.labels if labels is None else labels
        if isinstance(law, str):
            if law not in ("data", "balanced"):
                raise unknown("law of the classes", law, ("data", "balanced"), where="labels")
            training = self._training_labels if law == "data" else torch.zeros(0, dtype=torch.int64)
            return lambda part: sample_classes(law, training, self.classes, seed, part)
        classes = torch.as_tensor(law).cpu()
        if classes.ndim > 1 or classes.is_floating_point() or (classes.ndim == 1 and len(classes) != len(rows)):
            found = f"{tuple(classes.shape)} of {classes.dtype}"
            raise HarnessError("no classes of these samples", where="labels", found=found, expected=f"one whole number, or {len(rows)}")
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < self.classes:
            found = f"{int(classes.min())} to {int(classes.max())}"
            raise HarnessError("a class that the model does not have", where="labels", found=found, expected=f"0 to {self.classes - 1}")
        each = classes.long().expand(len(rows)) if classes.ndim == 0 else classes.long()
        return lambda part: each[(torch.arange(part.start, part.stop) - rows.start).clamp(0, max(len(rows) - 1, 0))]

    @cached_property
    def _training_labels(self) -> Tensor:
        """The classes of the training rows (n,). Raises HarnessError if the data set is not here."""
        data = self.run.data
        check_content(data.name, data.custom)
        labels = datasets.load(data.name, limit=data.limit).labels
        assert labels is not None, "a conditional model has labelled data"
        return labels

    def _one_hot(self, classes: Tensor | None) -> Tensor | None:
        return None if classes is None else torch.nn.functional.one_hot(classes, self.classes).float().to(self.device)

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: float | Tensor, labels: Labels = None) -> Tensor:
        """The function at (x, sigma) without gradients: the endpoint that a consistency model predicts, or the mean of the data given x
        that a denoiser does. Arguments and errors as for `model(x, sigma, labels)`."""
        return self(x, sigma, labels)

    def noise(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """The noise z ~ N(0, I) that the samples `first` to first + n - 1 start from; (n, *shape), float32, on the CPU."""
        return noise(self.shape, _seed(seed), _rows(n, first))

    def sample(
        self,
        n: int,
        steps: int | None = None,
        labels: Labels = None,
        seed: int = 0,
        first: int = 0,
        times: Sequence[float] | None = None,
    ) -> Tensor:
        """n samples, (n, *shape), float32, on the model's device; images lie in [-1, 1] but for small excesses (see `pixels`).

        steps: evaluations of the function, by default one. times: the noise levels of the further steps, in descending order; by default
        the first ones of the run's evaluation.times. Noise is added between steps as the run's evaluation.renoising says. labels: see
        `Labels`; only for a conditional model. seed: 0, 1, ...; seed k draws the noise of resampling k of the run's own evaluation. first:
        number of the first sample. Sample i of a seed is the same in any number of calls and whatever is sampled with it, and on any
        machine up to rounding between devices.

        Raises HarnessError for a denoiser, fewer than one sample, and steps or classes that the model does not have.
        """
        return torch.cat([x for x, _ in self.blocks(_rows(n, first), steps, labels, seed, times)])

    def blocks(
        self,
        rows: range,
        steps: int | None = None,
        labels: Labels = None,
        seed: int = 0,
        times: Sequence[float] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The samples with these numbers, as `sample` returns them, in parts of at most BATCH rows, each with its classes (n,), or None.

        Raises HarnessError as `sample`, before the first part.
        """
        self.check_sampling(rows, steps, labels, seed, times)
        run, k, classes_of = self.run, _seed(seed), self._classes_of(labels, rows, _seed(seed))
        how = Steps(run.noise.sigma_max, self.times_of(steps, times), identity_level(run), run.evaluation.renoising)

        @torch.no_grad()
        def generate(k: int, part: range) -> Tensor:
            return draw(self.network, how, self.shape, k, part, self.device, self._one_hot(classes_of(part)))

        def parts() -> Iterator[tuple[Tensor, Tensor | None]]:
            for start in range(rows.start // BATCH * BATCH, rows.stop, BATCH):
                whole = range(start, start + BATCH)
                wanted = slice(max(rows.start - start, 0), min(rows.stop - start, BATCH))
                classes = classes_of(whole)
                yield in_halves(generate, k, whole)[wanted], None if classes is None else classes[wanted]

        return parts()

    def check_sampling(
        self,
        rows: range,
        steps: int | None = None,
        labels: Labels = None,
        seed: int = 0,
        times: Sequence[float] | None = None,
    ) -> None:
        """Raises HarnessError as `blocks` does for these arguments; draws nothing."""
        if self.run.objective.kind == "denoiser":
            found = "a denoiser: in one step from pure noise it predicts the mean of the data"
            raise HarnessError("this model draws no samples", where=self.source, found=found, expected="a consistency model")
        self.times_of(steps, times)
        self._classes_of(labels, rows, _seed(seed))

    def times_of(self, steps: int | None = None, times: Sequence[float] | None = None) -> tuple[float, ...]:
        """The noise levels of all steps but the first. Raises HarnessError for steps without levels, and levels that do not descend within
        the run's own."""
        declared = self.run.evaluation.times
        if times is None:
            count = 1 if steps is None else steps
            if not 1 <= count <= len(declared) + 1:
                found = f"{count}, and evaluation.times of the run has {len(declared)} levels"
                most = f"1 to {len(declared) + 1}" if declared else "1"
                expected = f"{most}, or the noise levels of the further steps: times, on the command line --times"
                raise HarnessError("no noise levels for this number of steps", where="steps", found=found, expected=expected)
            return declared[: count - 1]
        levels, noise_range = tuple(float(time) for time in times), self.run.noise
        limits = [noise_range.sigma_max, *levels, noise_range.sigma_min]
        if not all(high > low for high, low in pairwise(limits)):
            expected = f"in descending order, below {noise_range.sigma_max:g} and above {noise_range.sigma_min:g}"
            raise HarnessError("noise levels that do not descend", where="times", found=levels, expected=expected)
        if len(levels) > MOST_TIMES or steps not in (None, len(levels) + 1):
            found = f"{steps} steps, {len(levels)} levels" if len(levels) <= MOST_TIMES else f"{len(levels)} levels"
            expected = f"one level fewer than steps, at most {MOST_TIMES}"
            raise HarnessError("steps and noise levels disagree", where="times", found=found, expected=expected)
        return levels

    @torch.no_grad()
    def trajectory(
        self, z: Tensor, x: Tensor | None = None, t_max: float | None = None, steps: int = 32, labels: Labels = None
    ) -> Trajectory:
        """x along steps + 1 noise levels from t_max down to sigma_min, spaced as in EDM's sampler (rho = 7).

        A consistency model: the path f(x + T z, T) + t z of GC in Figure 1, a straight line for each row; T = t_max. A denoiser: the path
        of the PF-ODE (1) from x + T z, by Heun's method. z: noise (n, *shape). x: data that the path starts above, zeros by default: a
        sample starts from T z. t_max: by default the run's sigma_max.

        Raises HarnessError for shapes that differ and a t_max that is not above sigma_min.
        """
        low, high = self.run.noise.sigma_min, self.run.noise.sigma_max if t_max is None else t_max
        if not low < high <= self.run.noise.sigma_max:
            expected = f"above {low:g}, at most {self.run.noise.sigma_max:g}"
            raise HarnessError("no such highest noise level", where="t_max", found=t_max, expected=expected)
        if steps < 1:
            raise HarnessError("a path has at least one step", where="steps", found=steps, expected="1 or more")
        z = z.to(self.device, torch.float32)
        x = torch.zeros_like(z) if x is None else x.to(z)
        if x.shape != z.shape:
            raise HarnessError("data and noise of different shapes", where="x", found=tuple(x.shape), expected=tuple(z.shape))
        levels = karras_levels(at_level(z, high), low, steps)
        start = noised(x, z, levels[0])
        if self.run.objective.kind == "denoiser":
            points = trajectory(lambda at, t: self(at, t, labels), start, levels)
        else:
            end = self(start, levels[0], labels)
            points = [noised(end, z, level) for level in levels]
        return Trajectory(levels[:, 0].double().cpu(), torch.stack(points))

    def pixels(self, x: Tensor) -> np.ndarray:
        """Images x (n, C, H, W) as uint8 (n, H, W, C), quantised as the run's protocol says; with protocol.sample_range = "released", from
        the smallest and the largest value of all of them. Raises HarnessError for points, and for values that are not finite."""
        if not self.is_images:
            raise HarnessError("points have no pixels", where="x", found=tuple(x.shape), expected="images")
        levels = quantise(x.float(), self.run.protocol.sample_range, self.run.protocol.quantisation)
        return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _seed(seed: int) -> int:
    """The number of a resampling. Raises HarnessError for what is none."""
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise HarnessError("no seed", where="seed", found=seed, expected=f"0 to {LARGEST_SEED}")
    return seed


def _rows(n: int, first: int) -> range:
    """The numbers of n samples. Raises HarnessError for numbers that are out of range."""
    if type(n) is not int or not 1 <= n <= MOST:
        raise HarnessError("a number of samples out of range", where="n", found=n, expected=f"1 to {MOST:,}")
    if type(first) is not int or not 0 <= first <= LARGEST_SEED:
        raise HarnessError("no number of a sample", where="first", found=first, expected=f"0 to {LARGEST_SEED}")
    return range(first, first + n)


def load(name: str | Path, store: Store, device: torch.device | str = "cpu", which: Which | None = None) -> TrainedModel:
    """The model of a run, named by the beginning of its name or hash or by its folder, or of a file of weights (.safetensors).

    which: the moving average of the weights, or the weights in training; None for the average, or what the file has. Code that belongs to a
    run, such as the file of a user's coupling, is not executed. Raises HarnessError for a name that no run or several runs have, and for a
    run that is not finished; and as `read_weights` does.
    """
    path = Path(name)
    if path.suffix == SUFFIX:
        run, network, facts = read_weights(path)
        if which not in (None, facts["weights"]):
            found = facts["weights"]
            raise HarnessError("the file has other weights", where=path, found=found, expected=which, nearest=f"--which {found}")
        return TrainedModel(run, network.to(device), facts, path.absolute())
    return of_folder(store.named(name), device, which or "ema")


def of_folder(folder: RunFolder, device: torch.device | str = "cpu", which: Which = "ema") -> TrainedModel:
    """The model of a finished run. Raises HarnessError for a run that is not finished or whose checkpoint is damaged."""
    run = trained_runs.run_of(folder)
    if run.rehearsal:
        what = "the model of a rehearsal is no result"
        raise HarnessError(what, where=folder.path, found=run.rehearsal, expected="a run of harness reproduce or harness sweep")
    network = trained_runs.network(folder, which=which)
    return TrainedModel(run, network.to(device), facts_of(folder, run, which), folder.path)
