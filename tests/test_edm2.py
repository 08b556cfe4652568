"""EDM2's U-Net against a plain re-statement of its definition, its names and sizes, its magnitudes, and what measurements ask of it."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from functools import cache
from unittest.mock import patch

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from train_support import copied, difference, fresh, stop_after, tiny_run, trained

from harness.config.edm2 import BASE_CHANNELS, edm2_network
from harness.config.identity import identity_digest
from harness.config.overrides import override
from harness.config.parts import Data, Denoising, EasyConsistencyTuning, Ema, Evaluation, Network, Training
from harness.config.run import varied
from harness.core.consistency import Preconditioned, denoising_losses
from harness.core.networks import build
from harness.core.networks.edm2 import (
    EDM2UNet,
    FourierFeatures,
    UnitConv,
    cosine_attention,
    force_normalisation,
    mp_cat,
    mp_silu,
    mp_sum,
    normalised_weights,
    unit_magnitude,
)
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import HarnessError, UnknownName
from harness.sweep.memory import need
from harness.sweep.network_size import network_size
from harness.training.loop import Hooks

S = edm2_network("s", dropout=0.4)


def tiny(**changes) -> Network:
    options = {"base_channels": 8, "channel_mult": (1, 2), "num_blocks": (1, 2), "attention": (4,), "channels_per_head": 8}
    options |= changes
    return Network(**{"kind": "edm2", "dropout": (0.0,) * len(options["num_blocks"]), **options})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def shaken(network: Network, shape: tuple[int, ...], classes: int = 0, seed: int = 0) -> nn.Module:
    """The network in float64 with gains of 0.5 to 1.5 and weights of 0.5 to 2 times unit magnitude, so that no part of it is invisible."""
    module, random = build(network, shape, classes, generator(seed, "init")).double(), rng(seed)
    for parameter in module.parameters():
        scale = 0.5 + torch.rand((), generator=random, dtype=torch.float64)
        parameter.data = scale if parameter.ndim == 0 else parameter.data * scale * (1 + (scale > 1))
    return module


def magnitude(x: torch.Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def row_magnitudes(weight: torch.Tensor) -> torch.Tensor:
    """The magnitude of the weights of each output."""
    return weight.detach().square().flatten(1).mean(1).sqrt()


# --- sizes and names


def test_s_has_edm2s_parameters_and_entries():
    with torch.device("meta"):
        state = EDM2UNet(S, size=64, channels=3, label_dim=1000).state_dict(prefix="unet.")
    buffers = {"unet.emb_fourier.freqs", "unet.emb_fourier.phases"}
    assert sum(tensor.numel() for name, tensor in state.items() if name not in buffers) == 280_209_253
    assert len(state) == 200
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {
        "unet.out_gain": (),
        "unet.emb_fourier.freqs": (192,),
        "unet.emb_fourier.phases": (192,),
        "unet.emb_noise.weight": (768, 192),
        "unet.emb_label.weight": (768, 1000),
        "unet.enc.64x64_conv.weight": (192, 4, 3, 3),
        "unet.enc.64x64_block0.emb_gain": (),
        "unet.enc.64x64_block2.conv_res0.weight": (192, 192, 3, 3),
        "unet.enc.32x32_down.conv_res1.weight": (192, 192, 3, 3),
        "unet.enc.32x32_block0.conv_skip.weight": (384, 192, 1, 1),
        "unet.enc.32x32_block0.conv_res0.weight": (384, 384, 3, 3),
        "unet.enc.16x16_block0.emb_linear.weight": (576, 768),
        "unet.enc.8x8_block2.attn_proj.weight": (768, 768, 1, 1),
        "unet.dec.8x8_in0.attn_qkv.weight": (2304, 768, 1, 1),
        "unet.dec.8x8_block0.conv_res0.weight": (768, 1536, 3, 3),
        "unet.dec.8x8_block3.conv_skip.weight": (768, 1344, 1, 1),
        "unet.dec.16x16_block3.attn_qkv.weight": (1728, 576, 1, 1),
        "unet.dec.64x64_up.emb_linear.weight": (384, 768),
        "unet.dec.64x64_block3.conv_skip.weight": (192, 384, 1, 1),
        "unet.out_conv.weight": (3, 192, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert (
        not {"unet.dec.8x8_in1.attn_qkv.weight", "unet.dec.32x32_block0.attn_qkv.weight", "unet.enc.8x8_down.conv_skip.weight"}
        & shapes.keys()
    )
    assert not any("bias" in name or "norm" in name for name in shapes)


def test_the_other_sizes_have_the_papers_parameters():
    """Table 2 of arXiv 2312.02696, in millions; for 512x512 images in latents of 4 channels, whose first and last layers differ."""
    millions = {"xs": 124.7, "s": 280.2, "m": 497.8, "l": 777.5, "xl": 1119.3}
    for size in BASE_CHANNELS:
        with torch.device("meta"):
            network = EDM2UNet(edm2_network(size), size=64, channels=4, label_dim=1000)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions[size], abs=0.1)


def test_dropout_is_on_the_levels_below_a_resolution():
    assert S.dropout == (0.0, 0.0, 0.4, 0.4) and edm2_network("xs", dropout=0.1, dropout_below=8).dropout == (0.0, 0.0, 0.0, 0.1)
    with torch.device("meta"):
        network = EDM2UNet(S, size=64, channels=3)
    rates = {name: block.dropout for part in (network.enc, network.dec) for name, block in part.items() if hasattr(block, "dropout")}
    assert {name for name, rate in rates.items() if rate} == {name for name in rates if name.startswith(("16x16", "8x8"))}
    with pytest.raises(UnknownName, match="unknown size"):
        edm2_network("xxs")


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="coarsest level has attention: its 24 channels"):
        tiny(base_channels=12, channels_per_head=16)
    with pytest.raises(ValueError, match="EDM2 has no augmentation embedding"):
        tiny(augment_dim=9)
    with pytest.raises(ValueError, match="one value per level"):
        tiny(dropout=(0.0,))
    with pytest.raises(HarnessError) as caught:
        build(tiny(attention=(8,), channels_per_head=16), (1, 8, 8))
    assert caught.value.details == {
        "where": "network.channels_per_head", "found": "8 channels", "expected": "a multiple of 16 channels", "nearest": "8",
    }  # fmt: skip
    with pytest.raises(HarnessError, match="no level of the network has resolution 16"):
        build(tiny(attention=(16,)), (1, 8, 8))
    with pytest.raises(HarnessError, match="do not fit a network of 2 levels"):
        build(tiny(), (1, 7, 7))
    with pytest.raises(HarnessError, match="square images"):
        build(tiny(), (2,))
    with pytest.raises(ValueError, match="labels given to a network without classes"):
        build(tiny(), (1, 8, 8))(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, 2))


def test_an_override_to_edm2_is_validated():
    digits = varied(tiny_run(), data={"name": "digits"}, network=tiny().model_dump())
    assert override(digits, ["network.channels_per_head=16"]).network.channels_per_head == 16
    for pair in ("network.channels_per_head=0", "network.channels_per_head=24", "network.channels_per_head=1.5"):
        with pytest.raises(HarnessError) as caught:
            override(digits, [pair])
        assert "network" in caught.value.details["where"]


def test_a_network_of_another_kind_has_its_old_identity():
    run = tiny_run()
    assert "channels_per_head" in run.to_dict()["network"]
    older = run.to_dict()
    del older["network"]["channels_per_head"]
    assert identity_digest(older) == run.digest != varied(run, network={"channels_per_head": 32}).digest


# --- each layer against its formula


@pytest.mark.parametrize(("rows", "inputs", "scale"), [(1, 1, 0.01), (2, 7, 1.0), (5, 3, 100.0)])
def test_unit_magnitude(rows, inputs, scale):
    x = scale * normal(rows, inputs, 3)
    norms = torch.stack([(row.flatten() @ row.flatten() / row.numel()).sqrt() for row in x])
    torch.testing.assert_close(unit_magnitude(x, (1, 2)), x / (1e-4 + norms)[:, None, None], rtol=1e-12, atol=1e-12)
    zero = torch.zeros(2, 3, requires_grad=True)
    unit_magnitude(zero, (1,)).sum().backward()
    assert zero.grad.isfinite().all() and (unit_magnitude(zero, (1,)) == 0).all()


def test_unit_magnitude_is_computed_in_float32():
    x = torch.full((1, 3000), 200.0, dtype=torch.float16)  # the sum of its squares overflows float16
    assert unit_magnitude(x, (1,)).float().sub(1).abs().max() < 1e-3


def test_activation_sum_and_concatenation():
    a, b = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(mp_silu(a), a / (1 + (-a).exp()) / 0.596, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mp_sum(a, b, 0.3), (0.7 * a + 0.3 * b) / 0.58**0.5, rtol=1e-12, atol=1e-12)
    b = normal(2, 5, 4, 4, seed=1)
    factor = (8 / 0.5) ** 0.5 / 2
    torch.testing.assert_close(mp_cat(a, b, 0.5)[:, :3], factor * a / 3**0.5, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mp_cat(a, b, 0.5)[:, 3:], factor * b / 5**0.5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("share", "of_a", "of_b"), [(0.5, 4, 4), (0.3, 1, 7), (0.9, 8, 3)])
def test_sum_and_concatenation_keep_magnitude_and_set_the_contributions(share, of_a, of_b):
    a, b = normal(4, of_a, 64, 64), normal(4, of_b, 64, 64, seed=1)
    a, b = a / magnitude(a), b / magnitude(b)
    joined = mp_cat(a, b, share)
    assert magnitude(joined) == pytest.approx(1, abs=1e-9)
    parts = [float(part.square().sum().sqrt()) for part in (joined[:, :of_a], joined[:, of_a:])]
    assert parts[1] / parts[0] == pytest.approx(share / (1 - share))
    same = normal(4, of_a, 64, 64, seed=2)
    assert magnitude(mp_sum(a, same / magnitude(same), share)) == pytest.approx(1, abs=0.03)  # uncorrelated up to chance


def test_constants_keep_the_magnitude_of_normal_input():
    x = normal(1_000_000)
    assert magnitude(mp_silu(x)) == pytest.approx(1, abs=2e-3)
    features = FourierFeatures(5000).double()
    features.freqs, features.phases = 6.28 * normal(5000), 6.28 * torch.rand(5000, generator=rng(1), dtype=torch.float64)
    c = torch.linspace(-1.6, 1.1, 64, dtype=torch.float64)
    assert magnitude(features(c)) == pytest.approx(1, abs=0.01)
    expected = [[math.sqrt(2) * math.cos(float(c[i] * features.freqs[j] + features.phases[j])) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(features(c)[:2, :3], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_a_convolution_uses_the_normalised_weight(kernel):
    layer = UnitConv(6, 5, kernel).double()
    layer.weight.data = 3 * normal(5, 6, *kernel)
    flat = layer.weight.flatten(1)
    rows = flat / (flat.norm(dim=1, keepdim=True) + 1e-4 * flat.shape[1] ** 0.5)  # of length 1, hence unit magnitude over sqrt(inputs)
    x = normal(2, 6) if kernel == () else normal(2, 6, 4, 4)
    patches = x if kernel == () else F.unfold(x, kernel, padding=kernel[0] // 2)
    expected = patches @ rows.T if kernel == () else (rows @ patches).reshape(2, 5, 4, 4)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer(x, torch.tensor(-0.3)), -0.3 * expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_cosine_attention_is_torchs_on_normalised_vectors(dtype, tolerance):
    n, heads, width, side = 2, 3, 4, 5
    qkv = normal(n, 3 * heads * width, side, side).to(dtype)
    ordered = qkv.reshape(n, heads, width, 3, side * side).permute(3, 0, 1, 4, 2)
    q, k, v = ordered / (ordered.square().mean(-1, keepdim=True).sqrt() + 1e-4)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, heads * width, side, side)
    torch.testing.assert_close(cosine_attention(qkv, heads), expected, rtol=tolerance, atol=tolerance)


def plain_unit(w):
    return w / (1e-4 + (w * w).flatten(1).mean(1).sqrt().reshape(-1, *[1] * (w.ndim - 1)))


def plain_conv(state, name, x, gain=1.0):
    w = plain_unit(state[f"{name}.weight"])
    w = gain * w / math.sqrt(w[0].numel())
    return torch.einsum("ni,oi->no", x, w) if w.ndim == 2 else F.conv2d(x, w, padding="same")


def plain_silu(x):
    return x / (1 + torch.exp(-x)) / 0.596


def plain_block(state, name, x, emb, heads):
    decoder, block = name.startswith("dec."), name.split("_")[-1]
    if block == "down":
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    if block == "up":
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    skips = f"{name}.conv_skip.weight" in state
    if not decoder:
        x = plain_conv(state, f"{name}.conv_skip", x) if skips else x
        x = x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())
    y = plain_conv(state, f"{name}.conv_res0", plain_silu(x))
    y = plain_silu(y * (1 + plain_conv(state, f"{name}.emb_linear", emb, state[f"{name}.emb_gain"]))[:, :, None, None])
    y = plain_conv(state, f"{name}.conv_res1", y)
    if decoder and skips:
        x = plain_conv(state, f"{name}.conv_skip", x)
    x = (0.7 * x + 0.3 * y) / math.sqrt(0.58)
    if f"{name}.attn_qkv.weight" in state:
        n, c, h, w = x.shape
        y = plain_conv(state, f"{name}.attn_qkv", x).reshape(n, heads(c), c // heads(c), 3, h * w)
        q, k, v = (y / (1e-4 + y.square().mean(2, keepdim=True).sqrt())).unbind(3)
        weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(c // heads(c))).softmax(3)
        y = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(n, c, h, w)
        x = (0.7 * x + 0.3 * plain_conv(state, f"{name}.attn_proj", y)) / math.sqrt(0.58)
    return x.clip(-256, 256)


def plain_unet(state, x, c_noise, labels, per_head):
    """The whole network from its state dict alone."""
    emb = math.sqrt(2) * torch.cos(torch.outer(c_noise, state["emb_fourier.freqs"]) + state["emb_fourier.phases"])
    emb = plain_conv(state, "emb_noise", emb)
    if "emb_label.weight" in state:
        classes = state["emb_label.weight"].shape[1]
        labels = torch.zeros(len(x), classes, dtype=x.dtype) if labels is None else labels
        emb = (emb + plain_conv(state, "emb_label", labels * math.sqrt(classes))) / math.sqrt(2)
    emb = plain_silu(emb)
    names = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in state if name[:4] in ("enc.", "dec.")))
    x, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
    for name in names:
        if name.startswith("enc."):
            x = plain_conv(state, name, x) if name.endswith("_conv") else plain_block(state, name, x, emb, lambda c: c // per_head)
            skips.append(x)
            continue
        if "_block" in name:
            skip = skips.pop()
            a, b = x.shape[1], skip.shape[1]
            x = torch.cat([x / math.sqrt(a), skip / math.sqrt(b)], 1) * math.sqrt((a + b) / 2)
        x = plain_block(state, name, x, emb, lambda c: c // per_head)
    assert not skips
    return plain_conv(state, "out_conv", x, state["out_gain"])


CASES = [
    ({}, (1, 8, 8), 0),
    ({"attention": (8, 4), "channels_per_head": 4}, (2, 8, 8), 3),
    ({"channel_mult": (1, 2, 3), "num_blocks": (1, 2, 1), "attention": (8,)}, (3, 16, 16), 5),
    ({"base_channels": 12, "channel_mult": (2,), "num_blocks": (1,), "attention": ()}, (3, 6, 6), 0),
]


@pytest.mark.parametrize(("changes", "shape", "classes"), CASES)
def test_the_network_is_its_plain_definition(changes, shape, classes):
    network = tiny(**changes)
    module = shaken(network, shape, classes).eval()
    x, c = normal(3, *shape), torch.linspace(-1.5, 1.1, 3, dtype=torch.float64)
    one_hot = F.one_hot(torch.tensor([0, 2, 1]), classes).double() if classes else None
    for labels in (one_hot, None):
        expected = plain_unet(module.state_dict(), x, c, labels, network.channels_per_head)
        torch.testing.assert_close(module(x, c, labels), expected, rtol=1e-9, atol=1e-9)
        assert magnitude(expected) > 0.1
        single = copy.deepcopy(module).float()
        out = single(x.float(), c.float(), None if labels is None else labels.float())
        assert magnitude(out.double() - expected) < 1e-5 * magnitude(expected)


def test_large_activations_are_clipped():
    """Without the clip, the features of the first block would be a 1,000 times as large."""
    module = shaken(tiny(), (1, 8, 8)).eval()
    block = module.dec["4x4_in1"]
    outputs = block(1000 * normal(2, 16, 4, 4), normal(2, 16))
    assert outputs.abs().max() == 256
    assert block(normal(2, 16, 4, 4), normal(2, 16)).abs().max() < 10


def test_preconditioning_and_labels():
    """D(x, s) = sd^2/(s^2+sd^2) x + s sd/sqrt(s^2+sd^2) F(x/sqrt(s^2+sd^2), ln(s)/4, one-hot): EDM's, in which s0 = 0."""
    module = shaken(tiny(), (1, 8, 8), 3).eval()
    f = Preconditioned(module, sigma_data=0.5, sigma_0=0.0)
    x, labels = normal(2, 1, 8, 8), torch.eye(3, dtype=torch.float64)[:2]
    for s in (0.01, 1.0, 80.0):
        inside = plain_unet(module.state_dict(), x / math.sqrt(s**2 + 0.25), torch.full((2,), math.log(s) / 4).double(), labels, 8)
        expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / math.sqrt(s**2 + 0.25) * inside
        torch.testing.assert_close(f(x, torch.full((2,), s), labels), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(f(x, torch.zeros(2), labels), x)
    assert not torch.allclose(f(x, torch.ones(2), labels), f(x, torch.ones(2), labels.flip(0)))


# --- magnitudes at initialisation


def test_every_layer_has_unit_magnitude_at_initialisation():
    """S with a sixth of its channels, the mean square over four draws of the weights.

    Zero padding takes up to 16 % of the inputs of a 3x3 convolution at 8x8, twice in a row before the end of a residual branch. SiLU's
    output has a mean, so the magnitude behind it varies from draw to draw.
    """
    network = Network(**(S.model_dump() | {"base_channels": 32, "channels_per_head": 32}))
    squares: dict[str, list[float]] = {}
    for seed in range(4):
        module = build(network, (3, 64, 64), 1000, generator(seed, "init")).eval()
        for name, layer in module.named_modules():
            if (name and not list(layer.children())) or (name[:4] in ("enc.", "dec.") and name.count(".") == 1):
                layer.register_forward_hook(lambda _, __, out, name=name: squares.setdefault(name, []).append(magnitude(out) ** 2))
        x, label = torch.randn(1, 3, 64, 64, generator=rng(seed)), F.one_hot(torch.tensor([7]), 1000).float()
        with torch.no_grad():
            assert (module(x, torch.tensor([-0.3]), label) == 0).all()
    found = {name: math.sqrt(sum(values) / 4) for name, values in squares.items()}
    assert set(found) == {name.rpartition(".")[0] for name in module.state_dict() if "." in name}
    of_zero_gain = {name for name in found if name.endswith("emb_linear")} | {"out_conv"}
    assert all(found.pop(name) == 0 for name in of_zero_gain)
    assert {name: value for name, value in found.items() if not 0.65 < value < 1.35} == {}
    blocks = {name: value for name, value in found.items() if name.count(".") == 1}
    assert len(blocks) == 37 and {name: value for name, value in blocks.items() if not 0.85 < value < 1.1} == {}


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
@pytest.mark.parametrize("scale", [0.1, 10])
def test_a_convolution_keeps_the_magnitude_whatever_its_weights_are(kernel, scale):
    layer = UnitConv(64, 256, kernel)
    layer.weight.data = scale * torch.randn(256, 64, *kernel, generator=rng(3))
    x = torch.randn(256, 64, generator=rng(4)) if kernel == () else torch.randn(4, 64, 34, 34, generator=rng(4))
    out = layer(x) if kernel == () else layer(x)[..., 1:-1, 1:-1]  # without the padded edge
    assert magnitude(out) == pytest.approx(1, abs=0.02)


# --- forced weight normalisation


def test_forced_normalisation_gives_unit_weights_and_keeps_the_function():
    module = shaken(tiny(attention=(8, 4)), (2, 8, 8), 3).eval()
    x, c, labels = normal(3, 2, 8, 8), torch.linspace(-1.5, 1.1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    weights = normalised_weights(module)
    assert {id(w) for w in weights} == {id(p) for name, p in module.named_parameters() if not name.endswith("gain")}
    gains = [p.detach().clone() for name, p in module.named_parameters() if name.endswith("gain")]
    before, far = module(x, c, labels), [row_magnitudes(w) for w in weights]
    assert min(sizes.min() for sizes in far) < 0.6 and max(sizes.max() for sizes in far) > 2
    force_normalisation(weights)
    for weight, sizes in zip(weights, far, strict=True):
        torch.testing.assert_close(row_magnitudes(weight), sizes / (sizes + 1e-4), rtol=1e-9, atol=0)
    once = module(x, c, labels)
    assert magnitude(once - before) < 2e-3 * magnitude(before)  # the 1e-4 in each of some thirty layers
    force_normalisation(weights)
    twice = module(x, c, labels)
    assert magnitude(twice - once) < 1e-5 * magnitude(once)
    assert all(torch.equal(a, p) for a, p in zip(gains, (p for n, p in module.named_parameters() if n.endswith("gain")), strict=True))


def test_the_update_of_a_weight_is_orthogonal_to_it():
    """Which is why training without forced normalisation lets the weights grow without a limit."""
    module = shaken(tiny(), (1, 8, 8))
    module(normal(2, 1, 8, 8), torch.zeros(2).double()).square().sum().backward()
    for weight in normalised_weights(module):
        w, g = weight.detach().flatten(1), weight.grad.flatten(1)
        assert ((w * g).sum(1).abs() < 1e-3 * w.norm(dim=1) * g.norm(dim=1) + 1e-12).all()


def test_networks_of_other_kinds_have_no_weights_to_normalise():
    assert normalised_weights(build(Network(kind="mlp", dropout=(0.0,)), (2,))) == []
    unet = Network(kind="ddpmpp", base_channels=8, channel_mult=(1,), num_blocks=(1,), dropout=(0.0,))
    assert normalised_weights(build(unet, (1, 8, 8))) == []


# --- derivatives, precision, compilation


def test_jvp_equals_finite_differences():
    module = shaken(tiny(attention=(8, 4)), (2, 8, 8), 3).eval().requires_grad_(False)
    x, v, c, labels = normal(2, 2, 8, 8), normal(2, 2, 8, 8, seed=5), torch.tensor([-0.7, 0.4]).double(), torch.eye(3).double()[:2]
    slope = torch.func.jvp(lambda y, t: module(y, t, labels), (x, c), (v, torch.ones_like(c)))[1]
    h = 1e-5
    differences = (module(x + h * v, c + h, labels) - module(x - h * v, c - h, labels)) / (2 * h)
    assert magnitude(slope - differences) < 1e-6 * magnitude(slope) and magnitude(slope) > 0.1


def test_gradients_are_right_in_first_and_second_order():
    module = shaken(tiny(base_channels=4, channel_mult=(1,), num_blocks=(1,), attention=(), channels_per_head=4), (1, 4, 4)).eval()
    x, c = normal(1, 1, 4, 4).requires_grad_(), torch.tensor([0.3]).double()
    assert torch.autograd.gradcheck(lambda y: module(y, c).mean(), (x,))
    assert torch.autograd.gradgradcheck(lambda y: module(y, c).mean(), (x,))


def test_bf16_agrees_with_fp32():
    """bf16 has 8 bits, so each of about 40 layers in a row adds an error of about 2^-9; 2 % in the root of the mean square is asked for."""
    module = shaken(tiny(base_channels=16, attention=(8, 4), channels_per_head=16), (2, 8, 8), 3).float().eval()
    exact, rounded = (Preconditioned(module, sigma_0=0.0, bf16=bf16) for bf16 in (False, True))
    x, sigma, labels = normal(4, 2, 8, 8).float(), torch.tensor([0.1, 0.5, 3.0, 50.0]), F.one_hot(torch.tensor([0, 1, 2, 0])).float()
    a, b = exact(x, sigma, labels), rounded(x, sigma, labels)
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert magnitude(a - b) < 0.02 * magnitude(a)
    b.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


def test_it_is_traced_for_compilation_once_and_without_a_graph_break():
    """Also for another number of rows, as those of GC vary from step to step."""
    module = shaken(tiny(channel_mult=(1,), num_blocks=(1,), attention=()), (1, 8, 8), 3).float().eval().requires_grad_(False)
    counter = torch._dynamo.testing.CompileCounter()
    traced = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    for rows in (2, 3, 5):
        x, c, labels = normal(rows, 1, 8, 8).float(), torch.linspace(-0.4, 0.1, rows), F.one_hot(torch.arange(rows) % 3, 3).float()
        torch.testing.assert_close(traced(x, c, labels), module(x, c, labels), rtol=1e-5, atol=1e-5)
        force_normalisation(normalised_weights(module))  # in place, so the traced network sees it
    assert counter.frame_count == 1


# --- size and memory


def kept_for_backward(network: Network, shape: tuple[int, ...], classes: int, rows: int) -> int:
    """Values that torch keeps for the backward pass, without the weights themselves, counted on the meta device."""
    with torch.device("meta"):
        module = build(network, shape, classes, generator=torch.Generator()).train()
        x, c, labels = torch.zeros(rows, *shape), torch.zeros(rows), torch.zeros(rows, classes) if classes else None
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes() // 4
        return tensor

    weights = {p.untyped_storage()._cdata for p in module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), patch("torch.autocast", lambda *_, **__: nullcontext()):
        module(x, c, labels)
    return sum(count for storage, count in kept.items() if storage not in weights)


@pytest.mark.parametrize(
    ("network", "data", "shape", "classes"),
    [
        (S, "imagenet64", (3, 64, 64), 1000),
        (tiny(base_channels=32, dropout=(0.0, 0.3), attention=(4,)), "digits", (1, 8, 8), 10),
        (tiny(channel_mult=(1, 2, 2), num_blocks=(1, 3, 2), dropout=(0.0,) * 3, attention=(16, 8)), "cifar10", (3, 32, 32), 0),
    ],
)
def test_the_size_by_the_config_is_torchs(network, data, shape, classes):
    run = varied(tiny_run(), network=network.model_dump(), data=Data(name=data, labels=classes > 0).model_dump())
    with torch.device("meta"):
        parameters = sum(p.numel() for p in EDM2UNet(network, size=shape[1], channels=shape[0], label_dim=classes).parameters())
    size, (two, four) = network_size(run), (kept_for_backward(network, shape, classes, rows) for rows in (2, 4))
    of_row = (four - two) // 2
    assert size.parameters == parameters
    assert of_row / 1.3 < size.activations < of_row * 1.3
    assert 0.9 < (two - 2 * of_row) / parameters < 1.3 or data == "digits"  # the normalised weights, which memory counts as a copy


def test_s_fits_40_gb_with_micro_batches_of_32(monkeypatch):
    monkeypatch.setattr("harness.sweep.memory.chosen_rows", lambda: 32)
    train = Training(steps=100, batch=128, lr=1e-3, optimizer="adam", precision="bf16")
    needed = need(tiny_run(network=S, data=Data(name="imagenet64", labels=True, limit=1000), train=train))
    assert needed.rows == 32
    assert needed.of_batch(uses_gpu=True) < 40e9
    assert sum(needed.fixed.values()) > 7 * 4 * 280_209_253  # weights, EMA, gradients, update, two moments, normalised weights


# --- training


def digits_run(coupling="ic", **changes):
    values = {
        "scale": "digits",
        "data": Data(name="digits", labels=True),
        "network": tiny(dropout=(0.0, 0.2)),
        "objective": EasyConsistencyTuning(q=4, double=0),
        "train": Training(steps=6, batch=16, lr=5e-3, optimizer="adam", threads=1),
        "evaluation": Evaluation(every=10, samples=32, resamplings=1, grid=0),
    }
    return tiny_run(coupling, **values | changes)


@cache
def complete() -> dict:
    return trained(digits_run("gc")).state()


@pytest.mark.parametrize("stop", [1, 4])
def test_training_resumes_bit_for_bit(stop):
    run = digits_run("gc")
    model = fresh(run)
    trained(run, Hooks(stop=stop_after(model, stop)), start=model)
    assert model.step == stop
    assert difference(trained(run, start=copied(run, model)).state(), complete()) == []


def test_weights_are_normalised_before_each_step_and_averaged_as_the_optimizer_left_them():
    """The trainer against a plain loop over the same gradients: normalise, gradient, Adam, average."""
    run = digits_run(train=Training(steps=4, batch=16, lr=1e-2, optimizer="adam", threads=1), ema=Ema(rate=0.5))
    seen: list[list[torch.Tensor]] = []
    model = fresh(run)
    weights = normalised_weights(model.online)

    def look(network, _):
        if network.training and torch.is_grad_enabled():
            seen.append([w.detach().clone() for w in weights])

    model.online.register_forward_pre_hook(look)
    raw = [[w.detach().clone() for w in weights]]
    average = [w.detach().clone() for w in weights]
    trained(run, Hooks(stop=lambda: bool(raw.append([w.detach().clone() for w in weights]))), start=model)
    assert len(seen) == 4 and len(raw) == 5
    for before, used in zip(raw, seen, strict=False):
        for w, u in zip(before, used, strict=True):
            assert torch.equal(u, unit_magnitude(w, range(1, w.ndim)))
            torch.testing.assert_close(row_magnitudes(u), torch.ones(len(u)), rtol=0, atol=3e-4)
    assert any((row_magnitudes(w) - 1).abs().max() > 1e-3 for w in raw[-1])  # after the last update nothing is normalised
    for after in raw[1:]:
        average = [0.5 * a + 0.5 * w for a, w in zip(average, after, strict=True)]
    for a, w in zip(average, normalised_weights(model.ema), strict=True):
        torch.testing.assert_close(w.detach(), a, rtol=1e-6, atol=1e-6)


def test_training_lowers_the_loss():
    """A denoiser, on held-out rows with noise that is the same before and after training; the untrained one predicts c_skip x."""
    train = Training(steps=25, batch=16, lr=1e-2, optimizer="adam", threads=1)
    run = digits_run(objective=Denoising(), train=train, ema=Ema(rate=0.5))
    held_out = datasets.load("digits", "heldout")
    x, labels = held_out.batch(range(128)), F.one_hot(held_out.labels[:128], 10).float()
    z, sigma = torch.randn(x.shape, generator=rng(1)), torch.logspace(-1.5, 1.5, 128)

    def loss(model):
        return float(denoising_losses(model.ema, x, z, sigma, 0.5, dropout=0, labels=labels).mean())  # eval mode: no dropout

    model = fresh(run)
    before = loss(model)
    trained(run, start=model)
    assert loss(model) < 0.8 * before and model.online.model.out_gain.item() != 0
