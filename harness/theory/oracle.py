"""The exact denoiser of a finite data set, D*(x, t) = sum_j softmax_j(-|x - x_j|^2 / (2 t^2)) x_j, computed chunk by chunk of the data.

The exact velocity v_t, the posterior covariance (t^2 times the Jacobian of D*) and the ideal flow follow from it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.store.machine import memory_gib
from harness.theory.flow import SIGMA_MIN, at_level, ideal_flow, velocity_of

_TILE = {"cpu": 2**20, "cuda": 2**26}
"""Elements in one tile of logits (rows x data points): few enough for a CPU cache, or many enough to keep a GPU busy."""

_BLOCK = 8192
"""Rows of x processed at a time, to limit the memory."""


def available_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be allocated on the device; all of its memory where the system does not report that."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = memory_gib()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else int(free * 2**30)


def check_memory(need: int, what: str, device: torch.device | str = "cpu") -> None:
    """Raises HarnessError when `need` bytes exceed the memory available on the device."""
    have = available_memory(device)
    if need > have:
        needed, limit = f"{need / 2**30:.2f} GiB needed", f"at most {have / 2**30:.2f} GiB on {device}"
        fix = "fewer points, float32 instead of float64, or a larger machine"
        raise HarnessError(f"{what} does not fit into memory", found=needed, expected=limit, nearest=fix)


@dataclass(frozen=True)
class Posterior:
    """The posterior distribution of the data point x* given x_t."""

    mean: Tensor
    """The posterior mean D*(x, t), shaped like x."""
    variance: Tensor
    """E[|x* - D*|^2 | x_t], the trace of the posterior covariance; (n,) float64."""
    peak: Tensor
    """Index of the most probable data point; (n,)."""
    tail: Tensor
    """1 - the probability of that point, computed without cancellation; (n,) float64."""
    log_sum: Tensor
    """log sum_j exp(-|x - x_j|^2/(2 t^2)), which is log p_t(x) + log(N (2 pi t^2)^(d/2)); (n,) float64."""


@dataclass
class _Pass:
    """Sums over one pass through the data, of weights divided by exp(top)."""

    top: Tensor
    total: Tensor
    square: Tensor
    norm: Tensor
    mean: Tensor
    peak: Tensor

    @property
    def tail(self) -> Tensor:
        """1 - the largest weight, without cancellation, since the largest term of `total` is exactly 1."""
        return (self.total - 1).clamp(min=0) / self.total


_SUMS = tuple(field.name for field in fields(_Pass))


class Oracle:
    """The empirical distribution of data (N, *shape): uint8 images, converted to v/127.5 - 1, or floating-point points, used as they are.

    In float32, D* is accurate to 1e-5 per pixel: rows with a larger error are computed again in float64. float64 takes twice as long on
    CPUs. Memory: N d numbers, tiles of a few MB, and a few n d numbers for x of n rows. Raises HarnessError for data that are not finite
    or do not fit into memory.
    """

    def __init__(self, data: Tensor, dtype: torch.dtype = torch.float32) -> None:
        device = data.device
        check_memory(2 * data.numel() * dtype.itemsize, f"an oracle over {len(data):,} points", device)
        self.shape = tuple(data.shape[1:])
        self._raw = data.detach().flatten(1)
        pieces = self._raw.split(max(1, 2**22 // self._raw.shape[1]))
        zeros = torch.zeros(self._raw.shape[1], dtype=torch.float64, device=device)
        self._centre = sum((_read(piece).sum(0) for piece in pieces), zeros) / len(data)
        if not bool(self._centre.isfinite().all()):
            raise HarnessError("an oracle needs finite data", found="nan or inf in the data", expected="finite numbers")
        # centring the data reduces |x . x_j|, and with it the rounding errors of the distances
        self.points = torch.empty(self._raw.shape, dtype=dtype, device=device)
        halves = []
        for piece, target in zip(pieces, self.points.split(pieces[0].shape[0]), strict=True):
            centred = _read(piece).sub_(self._centre)
            halves.append(centred.square().sum(1) / 2)
            target.copy_(centred)
        half = torch.cat(halves)
        self._half = {torch.float64: half, dtype: half.to(dtype)}
        self.radius = float((2 * half.max()).sqrt())

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dtype(self) -> torch.dtype:
        return self.points.dtype

    @property
    def device(self) -> torch.device:
        return self.points.device

    def data(self, rows: Tensor | None = None) -> Tensor:
        """The converted data points with the given indices, or all of them; (n, *shape)."""
        selected = self._raw if rows is None else self._raw[rows.to(self.device)]
        return _read(selected).to(self.dtype).reshape(-1, *self.shape)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D*(x, t), like x; x (n, *shape) or (n, d), t > 0 a number or (n,). First derivatives work in forward (jvp) and reverse mode."""
        return _Denoise.apply(x, at_level(x, t), self)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """v_t(x) = (x - D*(x, t))/t, like x."""
        return velocity_of(self.denoise)(x, at_level(x, t))

    def flow(self, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 40) -> Tensor:
        """The ideal consistency function f(x, t) of the data, see `ideal_flow`."""
        return ideal_flow(self.denoise, x, t, sigma_0, steps)

    @torch.no_grad()
    def posterior(self, x: Tensor, t: float | Tensor, variance: bool = True) -> Posterior:
        """The posterior of x* given x_t = x. In float32, its variance is accurate to a relative 1e-4 only if `variance` (slower)."""
        parts = []
        for rows, levels, like in self._blocks(x, t):
            sums = self._exact(rows, levels, variance)
            log_sum = (sums.top.squeeze(1).double() - rows.square().sum(1) / 2) / levels**2 + sums.total.log()
            parts.append((self._uncentred(sums.mean, like), self._variance(sums), sums.peak, sums.tail, log_sum))
        return Posterior(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def variance(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[|x* - D*|^2 | x_t = x]; (n,) float64."""
        return self.posterior(x, t).variance

    @torch.no_grad()
    def weights(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The posterior probabilities softmax_j(-|x - x_j|^2/(2 t^2)); (n, N) in the oracle's dtype. Raises HarnessError if too large."""
        check_memory(3 * len(x) * len(self) * self.dtype.itemsize, f"a posterior of {len(x):,} x {len(self):,}", self.device)
        parts = []
        for rows, levels, _ in self._blocks(x, t):
            with full_precision(self.device):
                logits = torch.addmm(self._half[self.dtype], rows.to(self.dtype), self.points.T, beta=-1)
            parts.append(torch.softmax(logits.sub_(logits.amax(1, keepdim=True)).div_((levels**2).to(logits)[:, None]), 1))
        return torch.cat(parts)

    @torch.no_grad()
    def covariance_product(self, x: Tensor, t: float | Tensor, dx: Tensor, dt: Tensor | None = None) -> Tensor:
        """The derivative of D*(x, t) along (dx, dt), like x: the posterior covariance of x_j and dl_j with l_j = -|x - x_j|^2/(2 t^2)."""
        rates = x.new_zeros(len(x)) if dt is None else dt
        out = []
        for (rows, levels, like), tangent, rate in zip(self._blocks(x, t), dx.split(_BLOCK), rates.split(_BLOCK), strict=True):
            dx_rows, dt_rows = tangent.flatten(1).double(), rate.double()
            first = self._pass(rows, levels, self.dtype)
            product = self._second_pass(rows, levels, dx_rows, dt_rows, first, self.dtype)
            redo = self._uncertain(rows, levels, first, variance=False)
            if redo.numel():
                precise = self._pass(rows[redo], levels[redo], torch.float64)
                again = self._second_pass(rows[redo], levels[redo], dx_rows[redo], dt_rows[redo], precise, torch.float64)
                product[redo] = again.to(product)
            out.append(product.to(like).reshape(like.shape))
        return torch.cat(out)

    def _denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.cat([self._uncentred(self._exact(rows, levels, False).mean, like) for rows, levels, like in self._blocks(x, t)])

    def _blocks(self, x: Tensor, t: float | Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Blocks of (centred rows (n, d), levels (n,), the rows of x themselves); the first two are float64."""
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        if not bool((t > 0).all()):
            raise HarnessError("the exact denoiser needs a positive noise level", where="t", found=float(t.min()), expected="t > 0")
        for like, levels in zip(x.split(_BLOCK), t.split(_BLOCK), strict=True):
            yield like.detach().flatten(1).double() - self._centre, levels, like

    def _exact(self, x: Tensor, t: Tensor, variance: bool) -> _Pass:
        """One pass in the oracle's dtype, then a float64 pass over the rows that need it."""
        out = self._pass(x, t, self.dtype)
        redo = self._uncertain(x, t, out, variance)
        if redo.numel():
            again = self._pass(x[redo], t[redo], torch.float64)
            for name in _SUMS:
                getattr(out, name)[redo] = getattr(again, name).to(getattr(out, name))
        return out

    def _uncertain(self, x: Tensor, t: Tensor, out: _Pass, variance: bool) -> Tensor:
        """Indices of rows whose float32 error may exceed 1e-5 per pixel or, with `variance`, a relative 1e-4 of the variance."""
        if self.dtype == torch.float64:
            return torch.empty(0, dtype=torch.int64)
        rounding = 2.0**-24 * self.radius * (x.norm(dim=1) + self.radius / 2) / t**2
        largest = 1 / out.total
        # a rounding error of logit j moves the mean by w_j (x_j - D); independent errors add in squares, and for the largest weight w
        # the distance |x_j - D| is proportional to 1 - w
        spread = (out.square / out.total**2 - largest**2 * (1 - out.tail**2)).clamp(min=0).sqrt()
        pixel = 2 * self.radius / math.sqrt(x.shape[1])
        unsure = rounding * spread * max(pixel, 1.0) > 8e-6
        if variance:
            unsure |= (self._variance(out) < 1e-2 * out.norm / out.total) & (out.tail > 1e-12)
        return unsure.nonzero().squeeze(1)

    def _variance(self, out: _Pass) -> Tensor:
        second = out.norm / out.total
        variance = second - out.mean.double().square().sum(1)
        return torch.minimum(variance, 4 * self.radius**2 * out.tail).clamp(min=0)

    def _uncentred(self, mean: Tensor, like: Tensor) -> Tensor:
        return (mean.double() + self._centre).to(like).reshape(like.shape)

    def tiles(self, rows: int) -> tuple[int, int]:
        """The shape (rows, points) of one tile of logits for x of `rows` rows."""
        tile = _TILE.get(self.device.type, _TILE["cpu"])
        points = min(len(self), max(1024, math.isqrt(tile)))
        return max(1, min(rows, max(512, tile // points))), points

    def _chunks(self, size: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor, Tensor]]:
        half = self._half[dtype]
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            # a float64 pass reads the raw data again, because the centred data are rounded to float32
            chunk = self.points[part] if dtype == self.dtype else _read(self._raw[part]).sub_(self._centre)
            yield start, chunk, half[part]

    def _pass(self, x: Tensor, t: Tensor, dtype: torch.dtype) -> _Pass:
        with full_precision(self.device):
            rows, points = self.tiles(len(x))
            parts = [self._pass_tile(a.to(dtype), b, points) for a, b in zip(x.split(rows), t.split(rows), strict=True)]
        return parts[0] if len(parts) == 1 else _Pass(*(torch.cat([getattr(part, name) for part in parts]) for name in _SUMS))

    def _pass_tile(self, x: Tensor, t: Tensor, size: int) -> _Pass:
        """A streaming softmax over the data. Its logits x . x_j - |x_j|^2/2 differ from -|x - x_j|^2/2 by a constant in each row."""
        scale = (1 / t**2).to(x)[:, None]
        top = x.new_full((len(x), 1), -torch.inf)
        total, square, norm = (t.new_zeros(len(x)) for _ in range(3))
        mean, peak = torch.zeros_like(x), torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        buffers = x.new_empty(2, len(x) * size)
        ones = x.new_ones(size)
        for start, chunk, half in self._chunks(size, x.dtype):
            weight, work = (buffer[: len(x) * len(chunk)].view(len(x), -1) for buffer in buffers)
            torch.addmm(half, x, chunk.T, beta=-1, out=weight)
            best, where = _row_maximum(weight)
            peak = torch.where(best > top, where + start, peak)
            new = torch.maximum(top, best)
            # subtracting the maximum before dividing by t^2 avoids rounding it; exp of less than -80 would give slow denormal numbers
            weight.sub_(new).mul_(scale).clamp_(min=-80).exp_()
            keep, highest = (((old - new) * scale).exp() for old in (top, best))
            # the largest weight is summed separately, so that 1 - (that weight) keeps its precision
            weight.scatter_(1, where, 0.0)
            torch.mul(weight, weight, out=work)
            rest, rest_square = (v @ ones[: len(chunk)] for v in (weight, work))
            weight.scatter_(1, where, highest)
            mean.mul_(keep).addmm_(weight, chunk)
            keep, highest = keep.squeeze(1).double(), highest.squeeze(1).double()
            total.mul_(keep).add_(rest.double()).add_(highest)
            square.mul_(keep**2).add_(rest_square.double()).add_(highest**2)
            norm.mul_(keep).add_((weight @ (2 * half)).double())
            top = new
        return _Pass(top, total, square, norm, mean.div_(total.to(x)[:, None]), peak.squeeze(1))

    def _second_pass(self, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor, first: _Pass, dtype: torch.dtype) -> Tensor:
        with full_precision(self.device):
            rows, points = self.tiles(len(x))
            # dl_j = u . x_j + r |x_j|^2/2 up to a constant in each row
            r = (2 * dt / t**3)[:, None]
            u = dx / t[:, None] ** 2 - r * x
            mean_rate = (u * first.mean).sum(1, keepdim=True) + r * (first.norm / first.total / 2)[:, None]
            columns = (x, 1 / t[:, None] ** 2, u, r, mean_rate, first.top, first.total[:, None], first.mean)
            pieces = (column.to(dtype).split(rows) for column in columns)
            return torch.cat([self._second_tile(tile, points) for tile in zip(*pieces, strict=True)])

    def _second_tile(self, columns: tuple[Tensor, ...], size: int) -> Tensor:
        x, scale, u, r, mean_rate, top, total, mean = columns
        out, left = torch.zeros_like(x), torch.zeros_like(r)
        for _, chunk, half in self._chunks(size, x.dtype):
            weight = torch.addmm(half, x, chunk.T, beta=-1)
            weight.sub_(top).mul_(scale).clamp_(min=-80).exp_()
            rate = torch.addmm(mean_rate, u, chunk.T, beta=-1).addcmul_(r, half[None])
            weight.mul_(rate)
            out.addmm_(weight, chunk)
            left += weight.sum(1, keepdim=True)
        return (out - left * mean) / total


def _row_maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each row and its column, both (n, 1). On CPUs, a search within groups is several times faster than max."""
    n, width = values.shape
    if width % 32 or values.device.type != "cpu":
        return values.max(1, keepdim=True)
    groups = values.view(n, width // 32, 32)
    best, group = groups.amax(2).max(1, keepdim=True)
    inside = groups[torch.arange(n), group.squeeze(1)].argmax(1, keepdim=True)
    return best, group * 32 + inside


def _read(raw: Tensor) -> Tensor:
    """The numbers that raw data stand for, in a new float64 tensor."""
    values = raw.to(torch.float64, copy=True)
    return values.div_(127.5).sub_(1) if raw.dtype == torch.uint8 else values


class _Denoise(torch.autograd.Function):
    """D* with its closed-form derivative, so that differentiating a flow stores no posterior weights."""

    @staticmethod
    def forward(x: Tensor, t: Tensor, oracle: Oracle) -> Tensor:
        return oracle._denoise(x, t)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, t, ctx.oracle = inputs
        ctx.save_for_backward(x, t)
        ctx.save_for_forward(x, t)

    @staticmethod
    def jvp(ctx, dx: Tensor | None, dt: Tensor | None, _) -> Tensor:
        x, t = ctx.saved_tensors
        return ctx.oracle.covariance_product(x, t, torch.zeros_like(x) if dx is None else dx, dt)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, t = ctx.saved_tensors
        for_x = ctx.oracle.covariance_product(x, t, grad) if ctx.needs_input_grad[0] else None
        for_t = None
        if ctx.needs_input_grad[1]:
            rate = ctx.oracle.covariance_product(x, t, torch.zeros_like(x), torch.ones_like(t))
            for_t = (grad * rate).flatten(1).sum(1)
        return for_x, for_t, None


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disables autocast and TF32, which would make the distances too inaccurate."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def draw_rows(total: int, rows: int, generator: torch.Generator) -> Tensor:
    """`rows` random indices below `total`, whose counts differ by at most 1; (rows,) int64 on the CPU."""
    shuffles = [torch.randperm(total, generator=generator) for _ in range(math.ceil(rows / total))]
    return torch.cat(shuffles)[:rows]
