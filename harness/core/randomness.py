"""Addressed randomness: every random draw is a function of (seed, stream, step, rank), independent of what ran before it.

A resumed run is therefore bit-exact without stored generator state, and evaluation cannot affect training.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import torch

Stream = Literal["init", "order", "noise", "level", "mask", "dropout", "labels", "eval", "measure"]


def address(seed: int, stream: Stream, step: int = 0, rank: int = 0) -> int:
    """A 63-bit seed for the draw (seed, stream, step, rank); equal on every machine and Python version."""
    if stream not in get_args(Stream):
        raise ValueError(f"unknown stream {stream!r}; expected one of {get_args(Stream)}")
    digest = hashlib.sha256(f"{seed}/{stream}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, stream: Stream, step: int = 0, rank: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by `address(seed, stream, step, rank)`."""
    return torch.Generator(device=device).manual_seed(address(seed, stream, step, rank))
