"""Reads the weights out of EDM's and EDM2's public network pickles (Karras et al. 2022, arXiv 2206.00364; 2024, arXiv 2312.02696) without
running anything they contain.

Such a pickle holds {'ema': network, ...}. The network and its parts are calls of `torch_utils.persistence._reconstruct_persistent_obj` on
a dict with the class's source text and the object's state; its tensors are calls of `torch._utils` functions on byte strings that are
themselves `torch.save` files. Here every class or function that the pickle names becomes an inert record of its name and arguments; a name
outside a fixed list is refused. Then the records under 'ema' that describe tensors are read. The source text is never used.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor, nn

from harness.data.inert_pickle import Record, RecordingUnpickler, RefusedName
from harness.errors import DamagedFile, HarnessError, MissingFile, nearest

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
STORAGE = "torch.storage._load_from_bytes"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
CONTAINERS = {f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential")}
CONTAINER_TYPES = {
    "collections.OrderedDict": dict,
    "dnnlib.util.EasyDict": dict,
    "torch.Size": tuple,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
}
NUMPY = {"numpy.dtype", "numpy.ndarray"} | {
    f"numpy.{core}.{name}" for core in ("core", "_core") for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
}
DTYPES = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")}
RECORDED = {PERSISTENT, STORAGE, TENSOR, PARAMETER, "torch.device", *CONTAINERS, *NUMPY, *DTYPES}
ZIP = b"PK\x03\x04"
ROOTS = ("ema", "model", "net", "state_dict")
PREFIXES = ("model.", "unet.")
"""What the names of EDM's and of EDM2's networks begin with in their files."""
UNCERTAINTY = "logvar_"
"""What the names of EDM2's uncertainty head begin with; it weights the loss of a denoiser and is no part of the network F."""


def load_edm_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor (on the CPU, as stored) of the network in an EDM .pkl or a plain torch file, e.g. 'model.enc.32x32_conv.weight'.

    The network is searched under 'ema', 'model', 'net' and 'state_dict'; without these keys the file itself is taken as the state dict.
    Raises HarnessError when the file is missing, damaged, names anything but tensors and plain data, or holds no network.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
            file.seek(0)
            content = _torch_load(file) if zipped else _unpickle(file)
        state = dict(_tensors(_root(content), "", set()))
    except RefusedName as error:
        what = "the weights file refers to code, which is never run"
        raise HarnessError(what, where=path, found=error.name, expected="only tensors and plain data") from error
    except OSError as error:
        reason = error.strerror or error
        raise MissingFile("the weights file cannot be read", where=path, found=reason, expected="an EDM .pkl or a torch file") from error
    except Exception as error:  # a damaged pickle can fail in any way
        what, reason = "the weights file is damaged or of another format", f"{type(error).__name__}: {error}".splitlines()[0]
        raise DamagedFile(what, where=path, found=reason, expected="an EDM .pkl or a torch file") from error
    if not state:
        kind = f"a dict of {', '.join(map(repr, list(content)[:5])) or 'nothing'}" if isinstance(content, dict) else type(content).__name__
        raise HarnessError("the weights file holds no network", where=path, found=kind, expected="tensors under the key 'ema'")
    return state


def load_into(module: nn.Module, state: dict[str, Tensor], where: object, note: Callable[[str], None] = print) -> None:
    """Copies `state` into `module`; all names and shapes must agree. A prefix of PREFIXES is dropped if the module does not use it.

    note: gets a message when EDM2's uncertainty head is left out. Raises HarnessError as `fitting`; the module is then unchanged.
    """
    module.load_state_dict(fitting(module, state, where))
    if left_out := [name for name in state if name.startswith(UNCERTAINTY)]:
        note(f"{where}: the weights of the uncertainty head ({', '.join(sorted(left_out))}) are left out; consistency models have none")


def fitting(module: nn.Module, state: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    """The entries of `state` by the names of `module`, which may be on the meta device, without EDM2's uncertainty head.

    Raises HarnessError, which names `where` (the file), for missing, unexpected, misshapen or non-finite entries.
    """
    own = module.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith(UNCERTAINTY)}
    for prefix in PREFIXES:
        if not any(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected:
        what = f"the weights do not fit the network's {len(own)} entries: {len(missing)} missing, {len(unexpected)} unexpected"
        name = min(missing or unexpected)
        problem, similar = f"{name} {'missing' if missing else 'unexpected'}", nearest(name, unexpected if missing else own)
        raise HarnessError(what, where=where, found=problem, expected="the same names", nearest=similar)
    for name, mine in own.items():
        theirs = state[name]
        if theirs.shape != mine.shape:
            what, keys = f"the weights of {name} have the wrong shape", "network.base_channels, network.channel_mult"
            raise HarnessError(what, where=where, found=tuple(theirs.shape), expected=tuple(mine.shape), nearest=keys)
        if not theirs.is_floating_point() or not theirs.isfinite().all():
            raise HarnessError(f"the weights of {name} are not finite numbers", where=where, found=theirs.dtype, expected="finite floats")
        is_filter = name.endswith("resample_filter") and not mine.is_meta
        if is_filter and not torch.allclose(theirs.float().cpu(), mine.float().cpu()):
            values = [filter_.flatten().tolist() for filter_ in (theirs, mine)]
            raise HarnessError(f"{name} is another filter", where=where, found=values[0], expected=values[1], nearest="network.kind")
    return state


def _unpickle(file: BinaryIO) -> object:
    content = RecordingUnpickler(file, RECORDED, CONTAINER_TYPES).load()
    is_magic_number = isinstance(content, int)  # which opens torch's older format
    return _torch_load(file) if is_magic_number else content


def _torch_load(file: BinaryIO) -> Any:
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warning about its own TypedStorage
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise RefusedName(named[1]) from error
        raise


def _root(content: object) -> object:
    """The object that holds the network: `content` itself or the value under one of ROOTS, at most four levels deep."""
    for _ in range(4):
        values = [content[key] for key in ROOTS if key in content] if isinstance(content, dict) else []
        inside = [value for value in values if isinstance(value, dict | Record) and not _is_tensor(value)]
        if not inside:
            break
        content = inside[0]
    return content


def _tensors(node: object, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of a recorded module or of a plain state dict. seen: ids of the modules already read."""
    if isinstance(node, dict):
        for name, value in node.items():
            if _is_tensor(value):
                yield f"{prefix}{name}", _tensor(value)
        return
    state = _module_state(node)
    if state is None:
        return
    if id(node) in seen:
        raise pickle.UnpicklingError("a module occurs twice")
    seen.add(id(node))
    hidden = state.get("_non_persistent_buffers_set") or ()
    yield from _tensors(state["_parameters"], prefix, seen)
    yield from _tensors({name: value for name, value in state["_buffers"].items() if name not in hidden}, prefix, seen)
    for name, child in state["_modules"].items():
        yield from _tensors(child, f"{prefix}{name}.", seen)


def _is_tensor(value: object) -> TypeGuard[Tensor | Record]:
    return isinstance(value, Tensor) or (isinstance(value, Record) and value.name in (TENSOR, PARAMETER))


def _module_state(node: object) -> dict | None:
    if not isinstance(node, Record):
        return None
    state = node.args[0].get("state") if node.name == PERSISTENT else node.state if node.name in CONTAINERS else None
    return state if isinstance(state, dict) and {"_parameters", "_buffers", "_modules"} <= state.keys() else None


def _tensor(node: Tensor | Record) -> Tensor:
    if isinstance(node, Tensor):
        return node.detach()
    if node.name == PARAMETER:
        return _tensor(node.args[0])
    storage, offset, size, stride = node.args[:4]
    if not isinstance(storage, Record) or storage.name != STORAGE:
        raise pickle.UnpicklingError("a tensor without a storage")
    stored = _torch_load(io.BytesIO(storage.args[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = torch.empty(0, dtype=stored.dtype).set_(stored)
    if math.prod(size) > values.numel():
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} in a storage of {values.numel()} values")
    return values.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)
