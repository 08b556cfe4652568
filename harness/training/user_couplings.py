"""Builds the coupling of a run; a user's own coupling is one function in one file, checked before use and after each call.

`python -m harness.training.user_couplings CONFIG` tries the coupling of a config on a tiny batch and exits with 0, or with 2 and a message.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.config.overrides import from_dict
from harness.config.own_classes import executed
from harness.config.parts import Custom
from harness.config.run import Run
from harness.config.trust import WORKS, is_trusted
from harness.core import couplings
from harness.core.couplings import Coupling, Pairs, Predict
from harness.data.catalogue import info_of
from harness.errors import HarnessError, MissingFile
from harness.locations import project_root, read_regular


def build(run: Run) -> Coupling:
    """The coupling of a run under its protocol. Raises HarnessError as `load_custom` does."""
    if isinstance(run.coupling, Custom):
        return Coupling(load_custom(run.coupling), predictor="ema")
    return couplings.build(run)


def load_custom(settings: Custom) -> Callable[..., Pairs]:
    """A user's function(x, z, sigma, predict[, generator], **options) -> (x', z') from its file; a relative path counts from the project.

    Raises HarnessError when the file is missing, not trusted, was edited since the run was planned, or has no such function. The function
    that is returned raises it when the pairs are not two floating-point tensors of the shapes of x and z.
    """
    function = _function(settings)

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        draws = _draws(function, generator)
        try:
            # The loss needs sigma, and a batch is coupled again after an out-of-memory error, so that neither may be changed in place.
            pairs = function(x.clone(), z.clone(), sigma.clone(), predict, **draws, **settings.options)
        except SystemExit as error:
            raise HarnessError("a coupling must not exit", where=settings.source, found=f"exit({error.code})") from None
        return _checked(pairs, x, z, settings.source)

    return couple


def _function(settings: Custom) -> Callable[..., object]:
    """Runs the file and returns its function."""
    file, name = settings.source.rsplit(":", 1)
    path = project_root() / file
    if not path.is_file():
        raise MissingFile("the file of a coupling is missing", where=settings.source, found="no file", expected=f"a Python file at {path}")
    content = read_regular(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != settings.sha256:
        fix, expected = "plan again: the edited coupling is another run", settings.sha256[:12]
        what = "the coupling was edited after the run was planned"
        raise HarnessError(what, where=settings.source, found=digest[:12], expected=expected, nearest=fix)
    if not is_trusted(digest):
        expected = "a file named by --coupling, or --trust after you have read it"
        raise HarnessError("the code of this run's coupling is not trusted", where=path, found=f"SHA-256 {digest[:12]}", expected=expected)
    try:
        module = executed(content, str(path), f"custom_coupling_{digest[:12]}")
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}"
        raise HarnessError("the file of a coupling cannot be executed", where=settings.source, found=cause) from error
    function = getattr(module, name, None)
    if not callable(function):
        names = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise HarnessError("no such coupling in the file", where=settings.source, found=names, expected=name)
    return function


def _draws(function: Callable[..., object], generator: torch.Generator) -> dict[str, torch.Generator]:
    """The keyword argument `generator`, if the function takes it."""
    return {"generator": generator} if "generator" in inspect.signature(function).parameters else {}


def _checked(pairs: object, x: Tensor, z: Tensor, source: str) -> Pairs:
    """The pairs, detached and in the dtypes and on the devices of x and z."""
    if not (isinstance(pairs, tuple | list) and len(pairs) == 2 and all(isinstance(part, Tensor) for part in pairs)):
        raise HarnessError(
            "a coupling must return data and noise", where=source, found=type(pairs).__name__, expected="two tensors (x', z')"
        )
    if other := next((part.dtype for part in pairs if not part.is_floating_point()), None):
        raise HarnessError("a coupling must return floating-point tensors", where=source, found=other, expected=x.dtype)
    shapes, expected = tuple(tuple(part.shape) for part in pairs), (tuple(x.shape), tuple(z.shape))
    if shapes != expected:
        raise HarnessError("a coupling must keep the shapes", where=source, found=shapes, expected=expected)
    return pairs[0].detach().to(x), pairs[1].detach().to(z)


def try_out(run: Run) -> None:
    """Calls a user's coupling on four rows. Raises HarnessError, with its cause, if the call fails, changes sigma or returns a number that
    is not finite."""
    settings, shape = run.coupling, info_of(run.data).shape
    if not isinstance(settings, Custom):
        return
    couple = _function(settings)
    draws = torch.Generator().manual_seed(0)
    x, z = torch.randn(4, *shape, generator=draws), torch.randn(4, *shape, generator=draws)
    sigma = torch.tensor([0.1, 1.0, 2.0, 40.0], dtype=torch.float64)

    def predict(x_sigma: Tensor, level: Tensor, rows: Tensor) -> Tensor:
        if not len(x_sigma) == len(level) == len(rows):
            raise ValueError(f"predict needs as many rows as levels and row numbers, got {len(x_sigma)}, {len(level)}, {len(rows)}")
        return x_sigma / (1 + level.to(x_sigma).reshape(-1, *[1] * len(shape)))

    levels = sigma.clone()
    try:
        returned = couple(x.clone(), z.clone(), levels, predict, **_draws(couple, draws), **settings.options)
        pairs = _checked(returned, x, z, settings.source)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}"
        expected = "function(x, z, sigma, predict) or function(x, z, sigma, predict, generator), which returns (x', z')"
        raise HarnessError("the coupling fails on a small batch", where=settings.source, found=cause, expected=expected) from error
    if not torch.equal(levels, sigma):
        raise HarnessError("a coupling must not change sigma", where=settings.source, found="changed in place", expected="a copy of it")
    for part in pairs:
        if not part.isfinite().all():
            first_not_finite = part[~part.isfinite()][0].item()
            raise HarnessError("a coupling must return finite numbers", where=settings.source, found=first_not_finite)


def main(path: str) -> int:
    """Tries the coupling of a config file; prints what is wrong with it."""
    try:
        try_out(from_dict(json.loads(Path(path).read_text())))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(WORKS, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
