"""The size of a network by its config, against torch's own count of parameters and of what the backward pass keeps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from harness.config import presets
from harness.config.parts import Data, GeneratorAugmented, Independent, Network
from harness.config.run import Run, varied
from harness.core.networks import build
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.sweep.network_size import network_size

PRESETS = [(scale, data) for scale, values in presets.PRESETS_BY_SCALE.items() for data in values.presets]


def counted_by_torch(run: Run) -> tuple[int, int]:
    """Parameters, and values kept for the backward pass of one row, counted on torch's meta device, which computes nothing."""
    dataset, rows = info(run.data.name), 2
    classes = dataset.classes if run.data.labels else 0
    with torch.device("meta"):
        network = build(run.network, dataset.shape, classes, generator=torch.Generator()).to("meta").train()
        x, c = torch.zeros(rows, *dataset.shape), torch.zeros(rows)
        labels = torch.zeros(rows, classes) if classes else None
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # its storage must not be used again for another tensor
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes() // 4
        return tensor

    of_weights = sum(p.numel() for p in network.parameters())
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    no_autocast = patch("torch.autocast", lambda *_, **__: nullcontext())  # the meta device has none
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), no_autocast:
        network(x, c, labels)
    return of_weights, sum(count for storage, count in kept.items() if storage not in weights) // rows


@pytest.mark.parametrize("scale, data", PRESETS)
@pytest.mark.parametrize("coupling", [Independent(), GeneratorAugmented()])
def test_presets(scale, data, coupling):
    run = presets.make(scale, data, coupling, 0)
    size, (parameters, activations) = network_size(run), counted_by_torch(run)
    assert size.parameters == parameters
    assert activations / 2 < size.activations < activations * 2


@settings(max_examples=10, phases=[Phase.generate])
@given(
    st.sampled_from(["ddpmpp", "ncsnpp"]),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.3])), min_size=1, max_size=3),
    st.sampled_from([(), (16,), (32, 16)]),
    st.booleans(),
    st.sampled_from([0, 9]),
)
def test_any_unet(kind, levels, attention, labels, augment):
    mult, blocks, dropout = zip(*levels, strict=True)
    sizes = [32 >> level for level in range(len(levels))]
    network = Network(
        kind=kind, base_channels=32, channel_mult=mult, num_blocks=blocks, dropout=dropout, augment_dim=augment,
        attention=tuple(size for size in attention if size in sizes),
    )  # fmt: skip
    run = varied(presets.PAPER["cifar10"], network=network.model_dump(), data=Data(name="cifar10", labels=labels).model_dump())
    size, (parameters, activations) = network_size(run), counted_by_torch(run)
    assert size.parameters == parameters
    assert activations / 2 < size.activations < activations * 2


@settings(max_examples=60, phases=[Phase.generate])
@given(
    st.sampled_from(["ddpmpp", "ncsnpp", "edm2"]),
    st.sampled_from([4, 6, 16, 18, 64, 132]),
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
    st.sampled_from([(), (4,), (2,), (3,)]),
    st.sampled_from([4, 16]),
)
def test_the_plan_refuses_the_networks_that_cannot_be_built(kind, base, mult, attention, per_head):
    """With the words that the job would use. Some layers of other U-Nets concatenate two levels, so a width that fits may not do."""
    ones = (1,) * len(mult)
    try:
        network = Network(
            kind=kind, base_channels=base, channel_mult=mult, num_blocks=ones, dropout=(0.0,) * len(mult), attention=attention,
            channels_per_head=per_head,
        )  # fmt: skip
    except ValueError:  # EDM2's coarsest level, told by the config itself
        assume(False)
    run = varied(presets.DIGITS, network=network.model_dump())
    counted, built = refusal(lambda: network_size(run)), refusal(lambda: counted_by_torch(run))
    assert counted == built


def refusal(act: Callable[[], object]) -> str:
    try:
        act()
    except HarnessError as error:
        return str(error)
    return ""


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 6), st.booleans(), st.sampled_from([0.0, 0.2]))
def test_any_mlp(width, depth, labels, dropout):
    network = Network(kind="mlp", width=width, depth=depth, dropout=(dropout,))
    run = varied(presets.TOYS["two-moons"], network=network.model_dump(), data=Data(name="two-moons", labels=labels).model_dump())
    size, (parameters, activations) = network_size(run), counted_by_torch(run)
    assert size.parameters == parameters
    assert activations / 2.5 < size.activations < activations * 2.5
