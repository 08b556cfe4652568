"""Networks that are called with a few fixed numbers of rows only, so that a compiled network is not compiled again at every new number.

The rows that a call adds are dropped from its result. They change the other rows by rounding at most, since no layer mixes rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = 8
"""The number of sizes: eighths of the largest one."""

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (n, ...), sigma (n,), labels (n, classes) or None) -> like x."""


def fixed_size(rows: int, most: int) -> int:
    """The smallest of most/8, 2 most/8, ..., most, rounded up to whole numbers, that is at least `rows`; 1 <= rows <= most."""
    return next(size for part in range(1, SIZES + 1) if (size := -(-most * part // SIZES)) >= rows)


def in_fixed_sizes(network: Network, most: int) -> Network:
    """The network, called with at most `most` rows at once and only with the numbers of rows that `fixed_size` returns.

    Rows that are added have x = 0, sigma = 1 and no class.
    """

    def call(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        rows = len(x)
        added = fixed_size(rows, most) - rows
        if not added:
            return network(x, sigma, labels)
        x, sigma = torch.cat([x, x.new_zeros(added, *x.shape[1:])]), F.pad(sigma, (0, added), value=1.0)
        return network(x, sigma, None if labels is None else F.pad(labels, (0, 0, 0, added)))[:rows]

    def call_in_pieces(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        of_pieces = [None] * -(-len(x) // most) if labels is None else labels.split(most)
        outputs = [call(*piece) for piece in zip(x.split(most), sigma.split(most), of_pieces, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return call_in_pieces
