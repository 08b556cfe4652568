"""Builds the coupling of a run; a user's own coupling is one function in one file, checked before use and after each call."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from harness.config.parts import Custom
from harness.config.run import Run
from harness.core import couplings
from harness.core.couplings import Coupling, Pairs, Predict
from harness.errors import HarnessError, MissingFile
from harness.locations import project_root


def build(run: Run) -> Coupling:
    """The coupling of a run under its protocol. Raises HarnessError as `load_custom` does."""
    if isinstance(run.coupling, Custom):
        return Coupling(load_custom(run.coupling), predictor="ema")
    return couplings.build(run)


def load_custom(settings: Custom) -> Callable[..., Pairs]:
    """A user's function(x, z, sigma, predict[, generator], **options) -> (x', z') from its file; a relative path counts from the project.

    Raises HarnessError when the file is missing, was edited since the run was planned, or has no such function. The function that is
    returned raises it when the pairs are not two tensors of the shapes of x and z.
    """
    function = _function(settings)
    takes_generator = "generator" in inspect.signature(function).parameters

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        draws = {"generator": generator} if takes_generator else {}
        return _checked(function(x, z, sigma, predict, **draws, **settings.options), x, z, settings.source)

    return couple


def _function(settings: Custom) -> Callable[..., object]:
    """Runs the file and returns its function."""
    file, name = settings.source.rsplit(":", 1)
    path = project_root() / file
    if not path.is_file():
        raise MissingFile("the file of a coupling is missing", where=settings.source, found="no file", expected=f"a Python file at {path}")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != settings.sha256:
        fix, expected = "plan again: the edited coupling is another run", settings.sha256[:12]
        what = "the coupling was edited after the run was planned"
        raise HarnessError(what, where=settings.source, found=digest[:12], expected=expected, nearest=fix)
    module = ModuleType(f"custom_coupling_{digest[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    exec(compile(content, path, "exec", dont_inherit=True), vars(module))  # exactly the bytes that were hashed
    function = getattr(module, name, None)
    if not callable(function):
        names = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise HarnessError("no such coupling in the file", where=settings.source, found=names, expected=name)
    return function


def _checked(pairs: object, x: Tensor, z: Tensor, source: str) -> Pairs:
    """The pairs, detached and in the dtypes and on the devices of x and z."""
    if not (isinstance(pairs, tuple | list) and len(pairs) == 2 and all(isinstance(part, Tensor) for part in pairs)):
        raise HarnessError(
            "a coupling must return data and noise", where=source, found=type(pairs).__name__, expected="two tensors (x', z')"
        )
    shapes, expected = tuple(tuple(part.shape) for part in pairs), (tuple(x.shape), tuple(z.shape))
    if shapes != expected:
        raise HarnessError("a coupling must keep the shapes", where=source, found=shapes, expected=expected)
    return pairs[0].detach().to(x), pairs[1].detach().to(z)
