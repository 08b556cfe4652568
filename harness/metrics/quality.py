"""Quality of a sample from its features and class probabilities: Frechet distance, KID, Inception Score, all in float64.

Every function takes NumPy arrays or torch tensors (on any device) and is pure: equal input and generator, equal output.
"""

from __future__ import annotations

import math

import numpy as np
import torch

Array = np.ndarray | torch.Tensor
ROWS = 4096  # rows converted to float64 at once: 50,000 x 2,048 features need 64 MB of work space, not 800 MB


def _tensor(array: Array, dims: int) -> torch.Tensor:
    tensor = torch.as_tensor(array)
    if tensor.ndim != dims:
        raise ValueError(f"expected an array of {dims} dimensions, got shape {tuple(tensor.shape)}")
    return tensor


def moments(features: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), n >= 2, summed in float64 over centred blocks of rows."""
    features = _tensor(features, 2)
    n = len(features)
    if n < 2:
        raise ValueError(f"a covariance needs at least two rows, got {n}")
    mu = sum(block.double().sum(0) for block in features.split(ROWS)) / n
    cov = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    for block in features.split(ROWS):
        centred = block.double() - mu
        cov.addmm_(centred.T, centred)
    return mu, cov / (n - 1)


def root(cov: Array) -> torch.Tensor:
    """The symmetric square root of a positive semi-definite (d, d) matrix of any rank; eigenvalues made negative by rounding count as 0."""
    values, vectors = torch.linalg.eigh(_tensor(cov, 2).double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet(mu1: Array, cov1: Array, mu2: Array, cov2: Array, root1: torch.Tensor | None = None) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)) (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    mu (d,), cov (d, d), any rank. The product is symmetric, so its eigenvalues are real and no matrix square root of a
    non-symmetric matrix is needed. root1: `root(cov1)` where it is already known. Estimated moments bias the result upwards by about
    a constant over n; with n <= d the covariances do not have full rank.
    """
    mu1, mu2 = _tensor(mu1, 1).double(), _tensor(mu2, 1).double()
    cov1, cov2 = _tensor(cov1, 2).double(), _tensor(cov2, 2).double()
    if not (len(mu1) == len(mu2) == len(cov1) == len(cov2)):
        raise ValueError(f"dimensions differ: {len(mu1)}, {len(mu2)}, {tuple(cov1.shape)}, {tuple(cov2.shape)}")
    root1 = root(cov1) if root1 is None else root1
    product = root1 @ cov2 @ root1
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    value = (mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return max(value.item(), 0.0)


def kid(x: Array, y: Array, subsets: int = 100, size: int = 1000, *, generator: torch.Generator) -> float:
    """Kernel Inception Distance between features x (n, d) and y (m, d): the unbiased squared MMD under the kernel (<a, b>/d + 1)^3,
    averaged over `subsets` pairs of random subsets without replacement (Binkowski et al. 2018, arXiv 1801.01401).

    size is clipped to min(n, m). generator: a CPU generator; it alone decides the subsets.
    """
    x, y = _tensor(x, 2), _tensor(y, 2)
    size = min(size, len(x), len(y))
    if size < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"KID needs two rows on each side and equal dimensions, got {tuple(x.shape)} and {tuple(y.shape)}")
    picks = [[torch.randperm(len(side), generator=generator)[:size].to(side.device) for side in (x, y)] for _ in range(subsets)]
    pairs = len(x) ** 2 + len(y) ** 2 + len(x) * len(y)
    dense = pairs * (x.shape[1] + subsets) < 3 * size**2 * subsets * x.shape[1]  # cheaper: all kernel values once, or those of each subset?
    sums = _sums_dense(x, y, picks) if dense else torch.stack([_sums_one(x[i].double(), y[j].double()) for i, j in picks])
    xx, yy, xy = sums.unbind(1)
    return ((xx + yy) / (size * (size - 1)) - 2 * xy / size**2).mean().item()


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    inner = (a @ b.T).div_(a.shape[1]).add_(1)
    return inner * inner * inner


def _sums_one(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums of the kernel within x, within y (both without the diagonal) and between them, (3,)."""
    within = [(k := _kernel(a, a)).sum() - k.diagonal().sum() for a in (x, y)]
    return torch.stack([*within, _kernel(x, y).sum()])


def _sums_dense(x: torch.Tensor, y: torch.Tensor, picks: list[list[torch.Tensor]]) -> torch.Tensor:
    """`_sums_one` of every pair of subsets, (subsets, 3), from one evaluation of each kernel value: 1_I^T K 1_J by matrix products."""
    x, y = x.double(), y.double()
    member = [torch.zeros(len(picks), len(side), dtype=torch.float64, device=side.device) for side in (x, y)]
    for row, pick in enumerate(picks):
        for side in (0, 1):
            member[side][row, pick[side]] = 1
    sums = torch.zeros(len(picks), 3, dtype=torch.float64, device=x.device)
    for column, (a, b, rows, columns) in enumerate(((x, x, *member[:1] * 2), (y, y, *member[1:] * 2), (x, y, *member))):
        for start in range(0, len(b), ROWS):
            block = slice(start, start + ROWS)
            k = _kernel(a, b[block])
            if column < 2:
                k.diagonal(-start).zero_()
            sums[:, column] += ((rows @ k) * columns[:, block]).sum(1)
    return sums


def inception_score(probs: Array, splits: int = 1, *, generator: torch.Generator | None = None) -> float:
    """exp(mean_i KL(p_i || mean_j p_j)) of each of `splits` random parts of probs (n, k), averaged; between 1 and k
    (Salimans et al. 2016, arXiv 1606.03498).

    generator: a CPU generator, needed for more than one part; it alone decides which row is in which part, since consecutive parts of rows
    sorted by class would contain few classes each. A part of m rows is biased low by a factor of about exp(-(k - 1)/(2 m)): keep
    splits = 1 for small samples. Raises ValueError for fewer rows than splits or rows that are not distributions.
    """
    probs = _tensor(probs, 2).double()
    if len(probs) < splits or splits < 1:
        raise ValueError(f"{splits} splits need at least as many rows, got {len(probs)}")
    if not ((probs >= 0).all() and ((probs.sum(1) - 1).abs() <= 1e-3).all()):
        raise ValueError("each row must be a probability distribution")
    if splits > 1:
        if generator is None:
            raise ValueError("the rows of several splits are drawn at random, which needs a generator")
        probs = probs[torch.randperm(len(probs), generator=generator).to(probs.device)]
    scores = []
    for part in probs.tensor_split(splits):
        marginal = part.mean(0)
        divergence = (torch.special.entr(marginal).sum() - torch.special.entr(part).sum(1).mean()).item()
        scores.append(math.exp(max(divergence, 0.0)))
    return torch.tensor(scores, dtype=torch.float64).mean().item()
