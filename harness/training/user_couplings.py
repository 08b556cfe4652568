"""The coupling of a run, a user's own included: one function in one file, checked before and after each call."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from harness.config.run import Custom, Run
from harness.core import couplings
from harness.core.couplings import Coupling, Pairs, Predict
from harness.errors import HarnessError
from harness.locations import project_root


def build(run: Run) -> Coupling:
    """The coupling of a run, under its protocol. Raises HarnessError as `load_custom`."""
    if isinstance(run.coupling, Custom):
        return Coupling(load_custom(run.coupling), predictor="ema")
    return couplings.build(run)


def load_custom(settings: Custom) -> Callable[..., Pairs]:
    """A user's function(x, z, sigma, predict[, generator], **options) -> (x', z') out of its file.

    A relative path counts from the project. Raises HarnessError when the file is missing, was edited since the run was planned, or has no
    such function, and on the first batch when what comes back is no pair of tensors like x and z.
    """
    file, name = settings.source.rsplit(":", 1)
    path = project_root() / file
    if not path.is_file():
        raise HarnessError("the file of a coupling is missing", where=settings.source, found="no file", expected=f"a Python file at {path}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != settings.sha256:
        raise HarnessError(
            "the coupling was edited after the run was planned",
            where=settings.source,
            found=found[:12],
            expected=settings.sha256[:12],
            nearest="plan again: the edited coupling is a run of its own",
        )
    spec = importlib.util.spec_from_file_location(f"custom_coupling_{found[:12]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        names = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise HarnessError("no such coupling in the file", where=settings.source, found=names, expected=name)
    wants_generator = "generator" in inspect.signature(function).parameters

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        extra = {"generator": generator} if wants_generator else {}
        pairs = function(x, z, sigma, predict, **extra, **settings.options)
        if not (isinstance(pairs, tuple | list) and len(pairs) == 2 and all(isinstance(t, Tensor) for t in pairs)):
            found = type(pairs).__name__
            raise HarnessError("a coupling must return data and noise", where=settings.source, found=found, expected="two tensors (x', z')")
        shapes, expected = tuple(tuple(t.shape) for t in pairs), (tuple(x.shape), tuple(z.shape))
        if shapes != expected:
            raise HarnessError("a coupling must keep the shapes", where=settings.source, found=shapes, expected=expected)
        return pairs[0].detach().to(x), pairs[1].detach().to(z)

    return couple
