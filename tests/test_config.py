"""Runs: identity, what is refused and with which message, and the paper's hyper-parameter tables."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from train_support import tiny_run

from harness.config import presets
from harness.config.experiments import expand
from harness.config.identity import differences, identity_digest
from harness.config.overrides import from_dict, override
from harness.config.parts import (
    BatchOT,
    Custom,
    Data,
    Denoising,
    EasyConsistencyTuning,
    GeneratorAugmented,
    Independent,
    Init,
    Protocol,
    coupling_label,
    coupling_slug,
)
from harness.config.run import Run, varied
from harness.config.validation import validated
from harness.data.catalogue import REGISTRY
from harness.errors import HarnessError, UnknownKey
from harness.sweep.site import Site

CUSTOM = Custom(source="mine.py:my_coupling", sha256="0" * 64, options={"every": 2, "soft": True})
COUPLINGS = [
    Independent(), BatchOT(), BatchOT(scope="global"), GeneratorAugmented(mu=0.3), GeneratorAugmented(mu=1.0, predictor="online"),
    GeneratorAugmented(predictor="frozen", frozen="other", frozen_step=20), GeneratorAugmented(variant="shuffled"), CUSTOM,
]  # fmt: skip
RUNS = [tiny_run(coupling) for coupling in COUPLINGS] + [
    tiny_run(objective=EasyConsistencyTuning(), init=Init(kind="edm", ref="x.pkl")), tiny_run(objective=Denoising()),
]  # fmt: skip


# --- identity


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.slug)
def test_a_run_survives_json_whatever_the_order_of_keys(run):
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        random.Random(0).shuffle(items)
        return {key: shuffled(part) for key, part in items}

    again = from_dict(json.loads(json.dumps(shuffled(run.to_dict()))))
    assert again == run and again.id == run.id and hash(again.coupling.kind) == hash(run.coupling.kind)


def test_all_these_runs_are_different():
    assert len({run.digest for run in RUNS}) == len(RUNS)


def leaves(value: dict, path: tuple[str, ...] = ()):
    for key, part in value.items():
        yield from leaves(part, (*path, key)) if isinstance(part, dict) and part else [((*path, key), part)]


def test_every_key_is_part_of_the_identity_but_two():
    """Each leaf of the plain config is changed in turn, valid or not: what the digest does not see could mix two results."""
    stored = tiny_run(GeneratorAugmented(), data=Data(name="digits", limit=5)).to_dict()
    ignored = set()
    for path, value in leaves(stored):
        changed = json.loads(json.dumps(stored))
        part = changed
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = f"not {value}"
        if identity_digest(changed) == identity_digest(stored):
            ignored.add(".".join(path))
    assert ignored == {"checkpoint_every", "keep_steps"}


def test_the_identity_is_the_same_in_every_process():
    code = "from harness.config import presets; print(presets.make('digits', 'digits', presets.MAIN[2], 3).id)"
    ids = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout for seed in "12"
    ]
    assert ids[0] == ids[1] == presets.make("digits", "digits", presets.MAIN[2], 3).id + "\n"


def test_gc_with_mu_0_is_the_run_of_ic():
    assert tiny_run(GeneratorAugmented(mu=0.0)).id == tiny_run("ic").id
    assert tiny_run(GeneratorAugmented(mu=0)) == tiny_run("ic")
    frozen = tiny_run(GeneratorAugmented(mu=0.0, predictor="frozen", frozen="other"))
    assert frozen == tiny_run("ic") and frozen.needs == ()
    assert from_dict(json.loads(json.dumps({**tiny_run("gc").to_dict(), "coupling": {"kind": "gc", "mu": 0}}))) == tiny_run("ic")


def test_the_released_mu_is_the_share_of_ic():
    released = Protocol(mu="released")
    assert tiny_run(GeneratorAugmented(mu=1.0), protocol=released) == tiny_run("ic", protocol=released)
    assert tiny_run(GeneratorAugmented(mu=0.0), protocol=released).coupling.kind == "gc"


def test_runs_are_frozen():
    with pytest.raises(ValidationError):
        tiny_run().seed = 1


def test_what_a_run_needs():
    run = tiny_run(GeneratorAugmented(predictor="frozen", frozen="first"), init=Init(kind="run", ref="second"))
    assert run.needs == ("first", "second")
    assert tiny_run(init=Init(kind="edm", ref="edm.pkl")).needs == ()


def test_names_of_couplings():
    slugs = ["ic", "ot", "ot-global", "gc-0.3", "gc-1-online", "gc-0.5-frozen", "gc-0.5-shuffled", "my-coupling"]
    assert [coupling_slug(coupling) for coupling in COUPLINGS] == slugs
    labels = ["IC", "OT", "OT (global)", "GC (mu=0.3)", "GC (mu=1, online)", "GC (mu=0.5, frozen)", "GC (mu=0.5, shuffled)", "my-coupling"]
    assert [coupling_label(coupling) for coupling in COUPLINGS] == labels
    assert tiny_run("gc", objective=EasyConsistencyTuning()).slug == "eight-gaussians-ect-gc-0.5-s0"


# --- what is refused, and how


@pytest.mark.parametrize(
    ("pair", "where", "refused", "expected", "nearest"),
    [
        ("train.lrr=1", "train.lrr", "lrr", "one of steps, batch, lr", "lr"),
        ("tain.lr=1", "tain.lr", "tain", "train", "train"),
        ("coupling.mu=1.5", "coupling.mu", "1.5", "less than or equal to 1", "1.0"),
        ("coupling.mu=-0.1", "coupling.mu", "-0.1", "greater than or equal to 0", "0.0"),
        ("coupling.kind=indepandent", "coupling.kind", "indepandent", "batch-ot, entropic-ot, gc, variational, custom", "independent"),
        ("coupling.predictor=ena", "coupling.predictor", "ena", "'ema'", "ema"),
        ("coupling.predictor=frozen", "coupling", None, "go together", None),
        ("train.steps=0", "train.steps", "0", "greater than or equal to 1", "1"),
        ("train.steps=1.5", "train.steps", "1.5", "integer", None),
        ("train.lr=nought", "train.lr", "nought", "number", None),
        ("train.lr=-1", "train.lr", "-1", "greater than 0", None),
        ("train.lr=NaN", "train.lr", "nan", "finite", None),
        ("train.lr=1e999", "train.lr", "inf", "finite", None),
        ("train.lr.x=1", "train.lr.x", "lr is 0.001", "a key without parts", None),
        ("train.optimizer=lionn", "train.optimizer", "lionn", "'lion'", "lion"),
        ("network.dropout=[0, 0]", "network", None, "an MLP takes one dropout rate", None),
        ("network.kind=ddpmpp", "network", None, "one value per level", None),
        ("network.kind=ddpmp", "network.kind", "ddpmp", "'ddpmpp'", "ddpmpp"),
        ("noise.sigma_min=100", "noise", None, "sigma_min must lie below sigma_max", None),
        ("objective.n1=5", "objective", None, "n1 must be at least n0", None),
        ("objective.kind=denoiser", "--set", None, "predictor = 'frozen'", None),
        ("protocol.emma=paper", "protocol.emma", "emma", "mu, ema", "ema"),
        ("init.kind=run", "init.kind", "init is null", "init={...}", None),
        ('init={"kind": "run"}', "init.ref", None, "a value", None),
        ('init={"kind": "run", "ref": "a", "rev": 1}', "init.rev", "rev", "one of kind, ref", "ref"),
        ("nothing", "--set", "nothing", "train.lr=3e-5", None),
        ("=1", "--set", "=1", "train.lr=3e-5", None),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused(pair, where, refused, expected, nearest):
    with pytest.raises(HarnessError) as caught:
        override(tiny_run("gc"), [pair])
    details = caught.value.details
    assert details["where"].endswith(where) and details.get("found") == refused and expected in details["expected"]
    assert details.get("nearest") == nearest


KEYS = sorted({".".join(path[:depth]) for path, _ in leaves(tiny_run("gc").to_dict()) for depth in (1, 2)} - {"format"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-3, 3) | st.sampled_from(["gc", "ict", "kind"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "mu"]), inner, max_size=2),
)


@given(st.sampled_from([*KEYS, "coupling.options.a", "x", "train.kind"]), st.text(max_size=8) | VALUES.map(json.dumps))
def test_any_override_gives_a_run_or_one_message(key, value):
    try:
        run = override(tiny_run("gc"), [f"{key}={value}"])
    except HarnessError as error:
        assert error.what and "where" in error.details
    else:
        assert isinstance(run, Run) and from_dict(run.to_dict()) == run


def test_overrides_replace_values():
    run = override(tiny_run("gc"), ["train.lr=3e-5", "train.optimizer=lion", "coupling.mu=0.25", "keep_steps=[5, 6]", "data.limit=100"])
    assert (run.train.lr, run.train.optimizer, run.coupling.mu, run.keep_steps, run.data.limit) == (3e-5, "lion", 0.25, (5, 6), 100)
    assert override(run, []) == run
    assert override(tiny_run(CUSTOM), ["coupling.options.every=5"]).coupling.options["every"] == 5


@pytest.mark.parametrize("text", ["1,2", "(1,2)", "(1, 2)", "1, 2,", "[1, 2]"])
def test_a_tuple_may_be_written_with_commas(text):
    run = override(presets.make("digits", "digits", Independent(), 0), [f"network.channel_mult={text}"])
    assert run.network.channel_mult == (1, 2)


def test_short_and_empty_tuples():
    run = override(tiny_run(), ["keep_steps=5,", "train.betas=0.8,0.95"])
    assert run.keep_steps == (5,) and run.train.betas == (0.8, 0.95)
    assert override(run, ["keep_steps=()"]).keep_steps == ()
    assert override(tiny_run(CUSTOM), ["coupling.options.text=a,b"]).coupling.options["text"] == "a,b", "a comma elsewhere is text"
    for pair, key in (("keep_steps=1,x", "keep_steps.1"), ("keep_steps=1,,2", "keep_steps.1"), ("train.lr=1,2", "train.lr")):
        with pytest.raises(HarnessError) as caught:
            override(tiny_run(), [pair])
        assert caught.value.details["where"].endswith(key)


def test_another_kind_brings_its_defaults():
    run = override(tiny_run("gc"), ["objective.kind=ect", "objective.double=0", "coupling.kind=batch-ot", "coupling.scope=global"])
    assert run.objective == EasyConsistencyTuning(double=0) and run.coupling == BatchOT(scope="global")


def test_a_stored_config_that_does_not_fit_is_refused():
    stored = tiny_run().to_dict()
    cases = [
        ({**stored, "format": 2}, HarnessError, "config.json", "format 2"),
        ({**stored, "colour": 1}, UnknownKey, "config.json: colour", "colour"),
        ({"scale": "toy"}, HarnessError, "config.json: data", None),
    ]
    for values, kind, where, refused in cases:
        with pytest.raises(kind) as caught:
            from_dict(values, where="config.json")
        assert (caught.value.details["where"], caught.value.details.get("found")) == (where, refused)


def test_errors_keep_kind_and_details_when_pickled():
    error = pickle.loads(pickle.dumps(UnknownKey("unknown key", where="train.lrr", nearest="lr")))
    assert type(error) is UnknownKey and error.details == {"where": "train.lrr", "nearest": "lr"} and "train.lrr" in str(error)


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    members = {member for field in model.model_fields.values() for member in (field.annotation, *get_args(field.annotation))}
    parts = {member for member in members if isinstance(member, type) and issubclass(member, BaseModel)}
    return {model}.union(*map(models, parts))


@pytest.mark.parametrize("model", sorted(models(Run), key=lambda model: model.__name__))
def test_every_key_is_explained_in_a_sentence(model):
    for name, field in model.model_fields.items():
        assert (field.description or "").endswith("."), f"{model.__name__}.{name}"


def test_the_ledger_of_protocols_states_both_values():
    assert all(re.match("paper: .+ released: .+", field.description) for field in Protocol.model_fields.values())


def test_differences_name_the_keys():
    a, b = tiny_run("ic").to_dict(), tiny_run("gc", seed=1).to_dict()
    changes = differences(a, b)
    assert changes["seed"] == (0, 1) and changes["coupling.kind"] == ("independent", "gc") and changes["coupling.mu"] == ("(absent)", 0.5)
    assert differences(a, a) == {}


# --- presets


@pytest.mark.parametrize(
    ("data", "batch", "steps", "lr", "mult", "blocks", "attention", "dropout"),
    [
        ("cifar10", 512, 100_000, 1e-4, (1, 2, 2), (3, 3, 3), (), (0.3, 0.3, 0.3)),
        ("imagenet32", 512, 150_000, 8e-5, (1, 1, 2), (3, 5, 7), (16,), (0.0, 0.2, 0.2)),
        ("celeba64", 128, 150_000, 8e-5, (1, 2, 2, 2), (3, 3, 4, 5), (), (0.0, 0.0, 0.2, 0.2)),
        ("church64", 128, 150_000, 8e-5, (1, 2, 2, 2), (3, 3, 4, 5), (), (0.0, 0.0, 0.2, 0.2)),
    ],
)
def test_the_papers_tables(data, batch, steps, lr, mult, blocks, attention, dropout):
    ic, ot, gc = (presets.make("paper", data, coupling, 0) for coupling in presets.MAIN)
    for run in (ic, ot, gc):
        train, network = run.train, run.network
        assert (train.batch, train.steps, train.lr, train.optimizer, train.precision) == (batch, steps, lr, "lion", "fp32")
        assert (network.kind, network.base_channels, network.channel_mult, network.num_blocks) == ("ddpmpp", 128, mult, blocks)
        assert network.attention == attention and run.ema.rate == 0.9999
        objective = run.objective
        assert (objective.n0, objective.n1, objective.p_mean, objective.p_std, objective.huber) == (10, 1280, -1.1, 2.0, 0.00054)
        noise = run.noise
        assert (noise.sigma_min, noise.sigma_max, noise.sigma_data, noise.rho) == (0.002, 80.0, 0.5, 7.0)
        assert run.evaluation.samples == 50_000 and run.evaluation.resamplings == 5
        assert set(run.protocol.model_dump(exclude={"tf32"}).values()) == {"paper"} and run.protocol.tf32 == "library"
    assert ic.network.dropout == ot.network.dropout == dropout and set(gc.network.dropout) == {0.0}
    assert gc.coupling == GeneratorAugmented(mu=0.5, predictor="ema")


@pytest.mark.parametrize("scale", list(presets.PRESETS_BY_SCALE))
def test_every_scale_declares_runs_of_known_data(scale):
    runs = presets.grid(scale, presets.MAIN, [0, 1])
    assert len({run.id for run in runs}) == len(runs) == 6 * len(presets.scale(scale).table1)
    assert all(run.data.name in REGISTRY and run.scale == scale for run in runs)


def test_unknown_scales_and_data_sets_are_refused():
    with pytest.raises(HarnessError) as caught:
        presets.make("digit", "digits", Independent(), 0)
    assert caught.value.details["nearest"] == "digits"
    with pytest.raises(HarnessError) as caught:
        presets.make("paper", "cifar-10", Independent(), 0)
    assert caught.value.details["nearest"] == "cifar10"


@pytest.mark.parametrize(
    ("values", "where", "refused", "fact"),
    [
        ({"partitoin": "gpu"}, "site.toml: partitoin", "partitoin", "partition"),
        ({"gpus": -1}, "site.toml: gpus", "-1", "greater than or equal to 0"),
        ({"time": "soon"}, "site.toml: time", "soon", "H:MM:SS"),
        ({"gpus": 4, "tasks": 2}, "site.toml", None, "gpus = 4"),
    ],
)
def test_a_site_file_is_refused_like_a_config(values, where, refused, fact):
    with pytest.raises(HarnessError) as caught:
        validated(Site, values, "site.toml")
    details = caught.value.details
    assert (details["where"], details.get("found")) == (where, refused) and fact in details["expected"]


def test_a_digest_that_is_kept_is_never_that_of_another_run():
    run = expand("table1", "digits", [0])[0]
    fresh = from_dict(run.to_dict())
    kept = run.digest
    assert kept == run.digest == fresh.digest
    assert run == fresh and hash(run) == hash(fresh) and run.to_dict() == fresh.to_dict() and dict(run) == dict(fresh)
    for other in (run.model_copy(update={"seed": 7}), varied(run, train={"lr": 0.1}), Run.model_validate({**dict(run), "seed": 7})):
        assert other.digest == from_dict(other.to_dict()).digest != kept
    assert copy.deepcopy(run).digest == pickle.loads(pickle.dumps(run)).digest == kept
