"""Helpers of the tests of harness/theory."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from harness.errors import HarnessError
from harness.theory.proxy import noise_like


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(law, n, seed=0):
    """n pairs (x, z) of IC from a law."""
    g = generator(seed)
    x = law.sample(n, g)
    return x, noise_like(x, g)


def assert_close(a, b, rtol=1e-7, atol=1e-7):
    """Compares two tensors. torch.testing would import torch.distributed, which takes seconds."""
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=rtol, atol=atol)


@contextlib.contextmanager
def assert_refused(**facts):
    """The block must raise a HarnessError whose details (where, found, expected, nearest) contain these texts."""
    with pytest.raises(HarnessError) as caught:
        yield
    for key, text in facts.items():
        assert str(text) in caught.value.details[key], (key, text, caught.value.details)
