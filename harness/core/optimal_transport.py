"""Optimal transport between equally weighted points by POT on the CPU: exact by its network simplex, entropic by Sinkhorn."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from harness.errors import HarnessError

os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # before `import ot`, which would start CUDA on device 0
import ot

ITERATIONS = 2000
"""The most Sinkhorn iterations for one plan."""


def solve(costs: np.ndarray) -> tuple[np.ndarray, float]:
    """The optimal plan for costs (n, m), float64, and its cost. Raises HarnessError if the solver stops before the optimum."""
    plan, log = ot.emd([], [], costs, numItermax=100_000_000, log=True)
    if log["warning"]:
        size = f"{costs.shape[0]} x {costs.shape[1]} points"
        raise HarnessError("optimal transport stopped early", where=size, found=log["warning"], expected="an optimal plan")
    return plan, float(log["cost"])


def _squared_costs(x: Tensor, z: Tensor) -> np.ndarray:
    """|x_i - z_j|^2 for x (n, ...) and z (m, ...); (n, m) float64."""
    a, b = (t.detach().flatten(1).to("cpu", torch.float64).numpy() for t in (x, z))
    costs: np.ndarray = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
    return costs


def entropic_plan(x: Tensor, z: Tensor, regularisation: float) -> Tensor:
    """The plan P >= 0 with row and column sums 1/n that minimises <P, |x_i - z_j|^2> + e sum P (ln P - 1); (n, n) float64 on the CPU.

    e is `regularisation` times the mean cost. By POT's Sinkhorn iterations on logarithms, which do not overflow. Raises HarnessError for a
    plan that is not finite or whose column sums are off by more than 1 % of 1/n, as happens where e is too small.
    """
    costs = _squared_costs(x, z)
    scale = float(costs.mean()) * regularisation
    if scale <= 0:  # all points are equal, and so are all plans
        return torch.full(costs.shape, 1 / costs.size, dtype=torch.float64)
    rows = len(costs)
    plan = ot.sinkhorn([], [], costs, scale, method="sinkhorn_log", numItermax=ITERATIONS, stopThr=1e-4 / rows, warn=False)
    off = np.abs(plan.sum(0) * rows - 1).max() if np.isfinite(plan).all() else np.inf
    if off > 0.01:
        found = f"regularisation {regularisation:g}: column sums are off by {off:.1%} after {ITERATIONS} iterations"
        expected = "a larger coupling.regularisation"
        raise HarnessError("the entropic plan has not converged", where=f"{rows} rows", found=found, expected=expected)
    return torch.from_numpy(plan)


def assignment(x: Tensor, z: Tensor, cost: str = "squared") -> Tensor:
    """The permutation p that minimises sum_i cost(x_i, z_p(i)); x, z (n, ...), p (n,) int64.

    cost: "squared" distance, or "truncated" (the released code: plain distance, truncated to an integer). Raises HarnessError as `solve`,
    and RuntimeError when the optimal plan is not a permutation.
    """
    costs = _squared_costs(x, z)
    if cost == "truncated":
        costs = np.floor(np.sqrt(costs))
    permutation = solve(costs)[0].argmax(1)
    if len(np.unique(permutation)) != len(permutation):
        raise RuntimeError(f"the optimal plan of {len(costs)} rows is not a permutation")
    return torch.from_numpy(permutation)


def wasserstein2(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """Exact W2 between the uniform distributions on the rows of x (n, d) and y (m, d); half a second at n = 2,000.

    Between two samples of the same law it is not 0: compare with the value for real points. Raises HarnessError as `solve`.
    """
    x, y = (np.ascontiguousarray(torch.as_tensor(array).cpu(), dtype=np.float64) for array in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"expected points (n, d) and (m, d), got {x.shape} and {y.shape}")
    _, cost = solve(ot.dist(x, y, metric="sqeuclidean"))
    return float(np.sqrt(max(cost, 0.0)))
