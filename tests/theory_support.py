"""What the tests of harness/theory share."""

from __future__ import annotations

import numpy as np
import torch

from harness.theory.proxy import noise_like


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(law, n, seed=0):
    """n pairs (x, z) of IC from a law."""
    g = generator(seed)
    x = law.sample(n, g)
    return x, noise_like(x, g)


def assert_close(a, b, rtol=1e-7, atol=1e-7):
    """Of two tensors. torch.testing would import torch.distributed, seconds of it."""
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=rtol, atol=atol)
