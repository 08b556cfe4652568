"""Networks without training in the official formats: EDM's and EDM2's pickles, and the TorchScript file of the Inception network."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import pickle
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.run import Run
from harness.metrics.inception import DIM, FILE
from harness.store.files import atomic_file
from harness.training import model

LOGITS = 1008
"""Outputs of the Inception network of 2015."""
GAIN = 0.5
"""Of EDM2's layers that start with a gain of 0, so that the network is no constant."""
EMPTY = ("_parameters", "_buffers", "_backward_hooks")


def _reconstruct_persistent_obj(meta: object) -> object:
    """Stands for the function of that name in EDM's code, which the pickles call. Nothing calls this one."""
    raise NotImplementedError("EDM's pickles are read by harness.training.edm_weights, which runs nothing of them")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
_reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"


class Persistent:
    """An object as EDM's class decorator pickles it: a call of the function above on the class's source text and the object's state."""

    def __init__(self, name: str, state: Mapping[str, Any], **extra: object) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('never run')", "class_name": name}
        self.meta |= {"state": dict(state), **extra}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


@contextlib.contextmanager
def named_as_edms() -> Iterator[None]:
    """Modules of the names that the pickles refer to, there while one is written: pickle looks up what it names."""
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    new = {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}
    before = {name: sys.modules.get(name) for name in new}
    sys.modules.update(new)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = old


def persistent(module: nn.Module) -> Persistent | nn.ModuleDict:
    """The module as EDM pickles it: every module a Persistent but torch's own containers, with the state that torch gives modules."""
    children = collections.OrderedDict((name, persistent(child)) for name, child in module._modules.items() if child is not None)
    state: dict[str, Any] = {
        "training": False,
        "_parameters": collections.OrderedDict(module._parameters),
        "_buffers": collections.OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
        "_backward_hooks": collections.OrderedDict(),
        "_is_full_backward_hook": None,
        "_modules": children,
    }
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__.update(state)
        return container
    return Persistent(type(module).__name__, state | {"_init_args": (), "_init_kwargs": {}})


def write_pickle(path: Path, parts: Mapping[str, nn.Module], wrapper: str, **more: object) -> None:
    """A file {'ema': network, ...} whose network is a `wrapper` (EDMPrecond, Precond) with these named parts.

    Written completely or not at all; raises HarnessError on a full disk.
    """
    modules = collections.OrderedDict((name, persistent(part)) for name, part in parts.items())
    state: dict[str, Any] = {name: collections.OrderedDict() for name in EMPTY} | {
        "_modules": modules,
        "_non_persistent_buffers_set": set(),
    }
    with named_as_edms(), atomic_file(path, durable=False) as file:
        pickle.dump({"ema": Persistent(wrapper, state), "dataset_kwargs": {"path": "stand-in"}, **more}, file, protocol=4)


class _Frequencies(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels))
        self.register_buffer("phases", torch.rand(channels))


class _Weight(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, inputs))


@torch.no_grad()
def write_public_weights(path: Path, run: Run) -> None:
    """The public file that a run starts from, with the initial weights of its network: same format, names, shapes and number types.

    EDM: float32, the network as `model`. EDM2: half precision, the network as `unet`, beside it the head that weights its loss.
    """
    network = model.preconditioned(run).model
    path.parent.mkdir(parents=True, exist_ok=True)
    if run.network.kind != "edm2":
        write_pickle(path, {"model": network}, "EDMPrecond", loss_fn=Persistent("EDMLoss", {"P_mean": -1.2}))
        return
    for parameter in network.parameters():
        if parameter.ndim == 0:
            parameter.fill_(GAIN)
    channels = 128
    head = {"logvar_fourier": _Frequencies(channels), "logvar_linear": _Weight(channels)}
    parts = {name: copy_of.half().requires_grad_(False) for name, copy_of in {"unet": network, **head}.items()}
    write_pickle(path, parts, "Precond", encoder=Persistent("StandardRGBEncoder", {"_init_args": ()}))


class InceptionStandIn(nn.Module):
    """The interface of inception-2015-12-05.pt, of the size of its outputs: 2,048 features and 1,008 probabilities. Untrained, and cheap.

    forward(x (n, 3, H, W) in [0, 255], return_features, use_fp16, no_output_bias) -> features (n, 2048), or probabilities (n, 1008).
    """

    def __init__(self, logits: int = LOGITS) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, DIM), nn.ReLU())
        self.output = nn.Linear(DIM, logits)
        for parameter in self.parameters():
            scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.data = torch.randn(parameter.shape, generator=draws) * scale

    def forward(self, x: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False) -> Tensor:
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight)
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(1)


def write_inception(folder: Path) -> str:
    """Writes the stand-in of the Inception network to <folder>/inception-2015-12-05.pt and returns its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but the format of the real file
        torch.jit.save(torch.jit.script(InceptionStandIn()), str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
