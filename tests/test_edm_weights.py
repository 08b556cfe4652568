"""EDM's pickles are read without their modules and without running anything; whatever is not tensors and plain data is refused."""

import builtins
import collections
import copy
import io
import os
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from sweep_support import toy_run
from torch import nn

from harness.config.parts import Data, EasyConsistencyTuning, Evaluation, Init, Network, Training
from harness.core.networks import build
from harness.core.randomness import generator
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, Store
from harness.sweep import doctor as doctor_module
from harness.training import trained_runs
from harness.training.edm_weights import load_edm_weights, load_into
from harness.training.job import run_job
from harness.training.model import create


def net(seed=0, kind="ddpmpp", **changes):
    options = {"base_channels": 8, "channel_mult": (1, 2), "num_blocks": (1, 2), "attention": (4,), "dropout": (0.0, 0.0), "augment_dim": 9}
    return build(Network(kind=kind, **(options | changes)), (3, 8, 8), generator=generator(seed, "init"))


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called the module's own function")


class Persistent:
    """What EDM's class decorator does on pickling: a call of the function above on the class's source and the object's state."""

    def __init__(self, name, state, **extra):
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('never run')", "class_name": name}
        self.meta |= {"state": state, **extra}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


@pytest.fixture
def edm_modules(monkeypatch):
    """Modules named as EDM's, there only while a pickle is written."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence")
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    return monkeypatch


def persistent(module):
    """The module as EDM pickles it: every module persistent but torch's own containers, states as of torch 1.12."""
    children = collections.OrderedDict((name, persistent(child)) for name, child in module._modules.items() if child is not None)
    state = {
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
    state |= {"_init_args": (), "_init_kwargs": {"init_weight": np.sqrt(0.2), "resample_filter": [1, 1]}, "skip_scale": np.sqrt(0.5)}
    return Persistent(type(module).__name__, state, extra=(np.arange(3), torch.device("cpu"), torch.float32, torch.Size([2])))


def write_edm(path, module, protocol=4, **more):
    parts = collections.OrderedDict(model=persistent(module))
    empty = {name: collections.OrderedDict() for name in ("_parameters", "_buffers")}
    wrapper = Persistent("EDMPrecond", {**empty, "_modules": parts, "sigma_max": float("inf"), "sigma_data": 0.5})
    content = {"loss_fn": Persistent("EDMLoss", {"P_mean": -1.2}), "ema": wrapper, "dataset_kwargs": {"path": "x", "use_labels": False}}
    path.write_bytes(pickle.dumps(content | more, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp"])
def test_an_edm_pickle_gives_the_networks_state_dict(tmp_path, edm_modules, protocol, kind):
    module = net(3, kind)
    path = write_edm(tmp_path / "edm.pkl", module, protocol)
    edm_modules.undo()
    assert "torch_utils" not in sys.modules
    state = load_edm_weights(path)
    expected = module.state_dict(prefix="model.")
    assert state.keys() == expected.keys()
    assert "model.enc.4x4_block0.conv0.weight" in state and "model.enc.4x4_down.conv0.resample_filter" in state
    assert all(torch.equal(state[name], tensor) and state[name].is_contiguous() for name, tensor in expected.items())
    other = net(4, kind)
    load_into(other, state, path)
    x, c = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-1.0, 0.5])
    assert torch.equal(other(x, c), module(x, c))


def test_views_of_a_storage_keep_their_values(tmp_path, edm_modules):
    module = nn.Linear(4, 3)
    module.weight = nn.Parameter(torch.arange(24.0)[2:14].view(4, 3).t())
    path = write_edm(tmp_path / "edm.pkl", module)
    state = load_edm_weights(path)
    assert state["model.weight"].tolist() == [[2, 5, 8, 11], [3, 6, 9, 12], [4, 7, 10, 13]]


class Call:
    """Pickles as a call of `function`: on unpickling, code would run."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def shell_call(mark):
    return Call(os.system, f"touch {mark}")


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"(posix|nt)\.system"), (builtins.eval, r"builtins\.eval"), (builtins.getattr, r"builtins\.getattr"), (Path, "Path"),
     (torch.load, r"torch\.serialization\.load"), (pickle.loads, "loads"), (nn.Linear, r"Linear")],
)  # fmt: skip
def test_a_pickle_that_refers_to_code_is_refused_with_the_name(tmp_path, edm_modules, function, name):
    path = write_edm(tmp_path / "evil.pkl", net(), evil=Call(function, "x"))
    with pytest.raises(HarnessError) as caught:
        load_edm_weights(path)
    assert re.search(name, caught.value.details["found"]) and caught.value.details["where"] == str(path)


@pytest.mark.parametrize("place", ["top", "meta", "state", "storage", "torch file", "old torch file"])
def test_code_is_refused_and_not_run_wherever_it_hides(tmp_path, edm_modules, place):
    mark, path = tmp_path / "mark", tmp_path / "evil.pkl"
    evil = shell_call(mark)
    if place == "top":
        path.write_bytes(pickle.dumps(evil))
    elif place in ("meta", "state"):
        meta = {"ema": Persistent("X", {"evil": evil})} if place == "state" else {"ema": Persistent("X", {}, evil=evil)}
        path.write_bytes(pickle.dumps(meta))
    elif place == "storage":
        inner = io.BytesIO()
        torch.save(evil, inner, _use_new_zipfile_serialization=False)
        tensor = Call(torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, inner.getvalue()), 0, (1,), (1,), False, {})
        path.write_bytes(pickle.dumps({"ema": {"weight": tensor}}))
    else:
        torch.save({"ema": evil}, path, _use_new_zipfile_serialization=place == "torch file")
    with pytest.raises(HarnessError) as caught:
        load_edm_weights(path)
    assert "system" in caught.value.details["found"]
    assert not mark.exists()


def test_the_source_text_inside_is_not_run(tmp_path, edm_modules):
    mark = tmp_path / "mark"
    path = write_edm(tmp_path / "edm.pkl", net(), evil=Persistent("X", {}, module_src=f"open({str(mark)!r}, 'w')"))
    assert load_edm_weights(path) and not mark.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path, edm_modules):
    # BUILD with a pair of states sets attributes on whatever stands on the stack, here on the stand-in of a function itself.
    opcodes = b"\x80\x04ctorch_utils.persistence\n_reconstruct_persistent_obj\n(N}X\x04\x00\x00\x00nameX\x01\x00\x00\x00yst" + b"b."
    (tmp_path / "evil.pkl").write_bytes(opcodes)
    with pytest.raises(HarnessError):
        load_edm_weights(tmp_path / "evil.pkl")
    path = write_edm(tmp_path / "edm.pkl", net())
    assert load_edm_weights(path).keys() == net().state_dict(prefix="model.").keys()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "ema", "model", "state_dict"])
def test_plain_torch_files_are_read(tmp_path, zipped, key):
    state = net().state_dict()
    torch.save(state if key is None else {key: state, "step": 3}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_edm_weights(tmp_path / "net.pt")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_one_message(tmp_path, edm_modules, kind, kept):
    path = tmp_path / "net.pkl"
    if kind == "pickle":
        write_edm(path, net())
    else:
        torch.save(net().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DamagedFile) as caught:
        load_edm_weights(path)
    assert caught.value.details["where"] == str(path)


def test_files_without_a_network_are_reported(tmp_path, edm_modules):
    with pytest.raises(MissingFile):
        load_edm_weights(tmp_path / "absent.pkl")
    with pytest.raises(MissingFile):
        load_edm_weights(tmp_path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"images": [1, 2], "labels": [3]}))
    with pytest.raises(HarnessError) as caught:
        load_edm_weights(tmp_path / "other.pkl")
    assert "'images', 'labels'" in caught.value.details["found"]
    looped = {}
    looped["ema"] = looped
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps(looped))
    with pytest.raises(HarnessError) as caught:
        load_edm_weights(tmp_path / "loop.pkl")
    assert "'ema'" in caught.value.details["found"]


def test_a_module_inside_itself_and_an_overlong_tensor_are_damage(tmp_path, edm_modules):
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    module = nn.ModuleDict()
    module.__dict__.update(state)
    module.__dict__["_modules"]["self"] = module
    (tmp_path / "cycle.pkl").write_bytes(pickle.dumps({"ema": module}))
    four = torch.storage.TypedStorage(wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True)
    weight = Call(torch._utils._rebuild_tensor_v2, four, 0, (10**12,), (0,), False, {})
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"ema": {"weight": weight}}))
    beyond = Call(torch._utils._rebuild_tensor_v2, four, 3, (2,), (1,), False, {})
    (tmp_path / "beyond.pkl").write_bytes(pickle.dumps({"ema": {"weight": beyond}}))
    for name in ("cycle", "bomb", "beyond"):
        with pytest.raises(DamagedFile):
            load_edm_weights(tmp_path / f"{name}.pkl")


def changed(state, **changes):
    state = {name: tensor.clone() for name, tensor in state.items()}
    state.update(changes)
    return state


def test_load_into_reports_what_does_not_fit_and_changes_nothing():
    module = net(1)
    before = changed(module.state_dict())
    good = net(2).state_dict(prefix="model.")
    name = "model.enc.8x8_block0.conv0.weight"
    lacking = {("model.enc.8x8_block0.conv0.weights" if key == name else key): tensor for key, tensor in good.items()}
    cases = [
        (lacking, "1 missing", "enc.8x8_block0.conv0.weight missing", "enc.8x8_block0.conv0.weights"),
        (changed(good, **{"model.map_extra.weight": torch.zeros(2)}), "1 unexpected", "map_extra.weight unexpected"),
        (changed(good, **{name: torch.zeros(8, 8, 5, 5)}), "enc.8x8_block0.conv0.weight", "(8, 8, 5, 5)", "(8, 8, 3, 3)"),
        (changed(good, **{name: torch.full((8, 8, 3, 3), torch.nan)}), "enc.8x8_block0.conv0.weight", "finite"),
        (changed(good, **{name: torch.zeros(8, 8, 3, 3, dtype=torch.int64)}), "enc.8x8_block0.conv0.weight", "int64"),
        (changed(good, **{"model.enc.4x4_down.skip.resample_filter": torch.ones(1, 1, 2, 2)}), "4x4_down.skip.resample_filter", "0.25"),
    ]
    for state, *facts in cases:
        with pytest.raises(HarnessError) as caught:
            load_into(module, state, "weights.pkl")
        assert caught.value.details["where"] == "weights.pkl" and all(fact in str(caught.value) for fact in facts)
        assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
    load_into(module, good, "weights.pkl")
    assert all(torch.equal(tensor, good[f"model.{key}"]) for key, tensor in module.state_dict().items())
    wrapper = nn.ModuleDict({"model": net(5)})
    load_into(wrapper, good, "weights.pkl")
    assert torch.equal(wrapper.state_dict()[name], good[name])


# --- EDM2


EDM2 = Network(
    kind="edm2", base_channels=8, channel_mult=(1, 2), num_blocks=(1, 1), attention=(4,), dropout=(0.0, 0.0), channels_per_head=8
)  # fmt: skip


def edm2_net(seed=0, classes=5, **changes):
    """A tiny EDM2 in which no gain is zero."""
    module = build(Network(**(EDM2.model_dump() | changes)), (3, 8, 8), classes, generator(seed, "init"))
    for parameter in module.parameters():
        parameter.data += 0.5 * (parameter.ndim == 0)
    return module


def write_edm2(path, module, dtype=torch.float16):
    """As EDM2 stores a snapshot: half precision, the network as `unet`, beside it the uncertainty head, in a torch of 2023 or later."""
    fourier, linear = nn.Module(), nn.Module()
    fourier.register_buffer("freqs", torch.randn(4))
    fourier.register_buffer("phases", torch.randn(4))
    linear.weight = nn.Parameter(torch.randn(1, 4))
    parts = collections.OrderedDict(unet=module, logvar_fourier=fourier, logvar_linear=linear)
    parts = collections.OrderedDict((name, persistent(copy.deepcopy(part).to(dtype).requires_grad_(False))) for name, part in parts.items())
    empty = {name: collections.OrderedDict() for name in ("_parameters", "_buffers", "_forward_hooks_with_kwargs", "_backward_pre_hooks")}
    wrapper = Persistent("Precond", {**empty, "_non_persistent_buffers_set": set(), "_modules": parts, "use_fp16": True, "label_dim": 5})
    content = {"encoder": Persistent("StandardRGBEncoder", {"_init_args": ()}), "dataset_kwargs": {"path": "x"}, "ema": wrapper}
    path.write_bytes(pickle.dumps(content))
    return path


def test_an_edm2_pickle_loads_and_its_uncertainty_head_is_left_out(tmp_path, edm_modules):
    module, other, notes = edm2_net(3), edm2_net(4), []
    path = write_edm2(tmp_path / "edm2.pkl", module)
    edm_modules.undo()
    state = load_edm_weights(path)
    head = {"logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"}
    assert state.keys() == module.state_dict(prefix="unet.").keys() | head
    assert "unet.dec.4x4_in0.attn_qkv.weight" in state and state["unet.out_gain"].dtype == torch.float16
    load_into(other, state, path, note=notes.append)
    assert len(notes) == 1 and all(name in notes[0] for name in head) and str(path) in notes[0]
    half = copy.deepcopy(module).half().float()
    assert all(torch.equal(tensor, half.state_dict()[name]) for name, tensor in other.state_dict().items())
    x, c, labels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-1.0, 0.5]), torch.eye(5)[:2]
    assert torch.equal(other(x, c, labels), half(x, c, labels)) and other(x, c, labels).std() > 0.1


@pytest.mark.parametrize(
    ("changes", "classes", "facts"),
    [
        ({"base_channels": 16}, 5, ["wrong shape", "(8,)", "(16,)", "network.base_channels"]),
        ({"num_blocks": (1, 2)}, 5, ["missing", "_block"]),
        ({}, 0, ["1 unexpected", "emb_label.weight"]),
        ({}, 7, ["emb_label.weight", "(16, 5)", "(16, 7)"]),
        ({"attention": (8, 4)}, 5, ["missing", "attn_"]),
    ],
)
def test_an_edm2_pickle_of_another_variant_is_one_message(tmp_path, edm_modules, changes, classes, facts):
    module = edm2_net(0, classes, **changes)
    before, notes = changed(module.state_dict()), []
    path = write_edm2(tmp_path / "edm2.pkl", edm2_net(3))
    with pytest.raises(HarnessError) as caught:
        load_into(module, load_edm_weights(path), path, note=notes.append)
    assert caught.value.details["where"] == str(path) and all(fact in str(caught.value) for fact in facts), str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items()) and not notes


def test_an_edm2_pickle_does_not_load_into_another_architecture(tmp_path, edm_modules):
    with pytest.raises(HarnessError, match="do not fit the network's"):
        load_into(net(), load_edm_weights(write_edm2(tmp_path / "edm2.pkl", edm2_net(3))), "edm2.pkl")
    module = edm2_net(3)
    edm = load_edm_weights(write_edm(tmp_path / "edm.pkl", net()))
    with pytest.raises(HarnessError, match="do not fit the network's"):
        load_into(module, edm, "edm.pkl")


def digits_run(name, **changes):
    """A conditional ECT run of a tiny EDM2 on the digits that starts from a weights file."""
    network = Network(**(EDM2.model_dump() | changes))
    return toy_run(
        0, scale="digits", data=Data(name="digits", labels=True), network=network, objective=EasyConsistencyTuning(q=4, c=0.0043),
        init=Init(kind="edm", ref=name), evaluation=Evaluation(every=2, samples=20, resamplings=2, grid=0),
        train=Training(steps=2, batch=8, lr=1e-3, optimizer="adam", threads=1),
    )  # fmt: skip


def small_net(classes=10, **changes):
    return build(Network(**(EDM2.model_dump() | changes)), (1, 8, 8), classes, generator(0, "init"))


WRONG = [
    ({"base_channels": 16}, 10, "wrong shape"),  # larger: a file of a smaller network
    ({}, 7, "emb_label.weight have the wrong shape"),
    ({}, 0, "emb_label.weight missing"),
    ({"attention": (8, 4)}, 10, "attn_"),
]
"""Network of the file, its classes, and a part of the message."""


@pytest.mark.parametrize(("changes", "classes", "fact"), WRONG)
def test_doctor_and_job_refuse_weights_of_another_size_or_variant(tmp_path, edm_modules, monkeypatch, capsys, changes, classes, fact):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "weights" / "edm2.pkl"
    path.parent.mkdir(parents=True)
    write_edm2(path, small_net(classes, **changes))
    run = digits_run("edm2.pkl")
    assert doctor_module._edm("edm2.pkl", path, full=False, run=run).verdict == "ok"  # it does not look inside
    check = doctor_module._edm("edm2.pkl", path, full=True, run=run)
    assert check.verdict == "missing" and fact in f"{check.detail}" and "curl" in check.fix
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    assert run_job(folder.path, "cpu") == ExitCode.BAD_INPUT == 2
    message = capsys.readouterr().err
    assert message.count("failed (input)") == 1 and "init: edm2.pkl" in message and "Traceback" not in message
    assert folder.error()["kind"] == "input" and fact in folder.error()["message"]


def test_the_doctor_accepts_the_right_weights_and_a_run_starts_from_them(tmp_path, edm_modules, monkeypatch, capsys):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "weights" / "edm2.pkl"
    path.parent.mkdir(parents=True)
    module = small_net()
    write_edm2(path, module)
    run = digits_run("edm2.pkl")
    check = doctor_module._edm("edm2.pkl", path, full=True, run=run)
    assert check.verdict == "ok" and check.detail.endswith(f"{len(module.state_dict()) + 3} tensors")
    start = trained_runs.initial_weights(run, Store(tmp_path))
    model = create(run, start=start)
    assert "uncertainty head" in capsys.readouterr().out
    halved = {name: tensor.half().float() for name, tensor in module.state_dict().items()}
    for network in (model.online.model, model.ema.model):
        assert all(torch.equal(tensor, halved[name]) for name, tensor in network.state_dict().items())


def test_a_file_that_is_too_small_for_the_network_is_found_without_loading_it(tmp_path, edm_modules):
    path = write_edm2(tmp_path / "edm2.pkl", small_net())
    check = doctor_module._edm("edm2.pkl", path, full=False, run=digits_run("edm2.pkl", base_channels=32, channels_per_head=32))
    assert check.verdict == "missing" and "a smaller network than" in check.detail
