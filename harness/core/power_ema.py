"""Power-function moving averages of weights, and averages of other lengths computed from stored ones after training.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C. In the average after step t with exponent gamma, the weights of the network
at step tau count p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), 0 < tau <= t. Its length is sigma_rel, the standard deviation of p over t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LONGEST = 12**-0.5
"""sigma_rel of the plain mean, gamma = 0."""


def sigma_rel_of(gamma: float) -> float:
    """sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), the relative standard deviation of p; gamma > -1."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def gamma_of(sigma_rel: float) -> float:
    """The exponent gamma >= 0 of an average of this length; 0 < sigma_rel <= LONGEST.

    It is the largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2. Raises ValueError for another sigma_rel.
    """
    if not 0 < sigma_rel <= LONGEST:
        raise ValueError(f"sigma_rel must lie in (0, {LONGEST:.6f}], not {sigma_rel}")
    inverse = sigma_rel**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def power_decay(step: int, gamma: float) -> float:
    """(1 - 1/t)^(gamma + 1), the weight of the old average in the update at step t = `step`, counted from 1; 0 at the first step."""
    return (1 - 1 / step) ** (gamma + 1)


@dataclass(frozen=True)
class Profile:
    """The average after `step` training steps with exponent `gamma`."""

    step: float
    gamma: float


def inner_product(a: Profile, b: Profile) -> float:
    """The integral of p_a p_b over tau; in units of 1 / steps. Needs gamma_a + gamma_b > -1."""
    ratio, exponent = a.step / b.step, b.gamma if a.step < b.step else -a.gamma
    return (a.gamma + 1) * (b.gamma + 1) * ratio**exponent / ((a.gamma + b.gamma + 1) * max(a.step, b.step))


def reconstruction_weights(stored: Sequence[Profile], wanted: Profile) -> Tensor:
    """The weights w of the stored averages for which sum_i w_i p_i is nearest to p_wanted in the mean square; (len(stored),) float64.

    Averages that agree with others share their weight. Raises ValueError without a stored average, or if all end before the wanted one.
    """
    if not stored or max(profile.step for profile in stored) < wanted.step:
        raise ValueError(f"an average at step {wanted.step:g} needs a stored one from that step or later")
    products = torch.tensor([[inner_product(a, b) for b in stored] for a in stored], dtype=torch.float64)
    # Scaled to unit profiles, so that what is negligible does not depend on gamma and step.
    norms = products.diagonal().sqrt()
    target = torch.tensor([[inner_product(a, wanted)] for a in stored], dtype=torch.float64) / norms[:, None]
    solution = torch.linalg.lstsq(products / torch.outer(norms, norms), target, rcond=1e-13, driver="gelsd").solution
    return solution[:, 0] / norms


def mismatch(stored: Sequence[Profile], weights: Tensor, wanted: Profile) -> float:
    """|sum_i w_i p_i - p_wanted| / |p_wanted| in the mean square: 0 for an exact reconstruction."""
    profiles, factors = [*stored, wanted], torch.cat([weights, weights.new_full((1,), -1)])
    products = torch.tensor([[inner_product(a, b) for b in profiles] for a in profiles], dtype=torch.float64)
    return math.sqrt(max(0.0, float(factors @ products @ factors)) / inner_product(wanted, wanted))


def combined(states: Sequence[Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """sum_i w_i states_i entry by entry, summed in float64, in the dtype of the first; states of equal names and shapes."""
    result = {}
    for name, first in states[0].items():
        total = sum(float(weight) * state[name].double() for weight, state in zip(weights, states, strict=True))
        assert isinstance(total, Tensor)
        result[name] = total.to(first.dtype)
    return result
