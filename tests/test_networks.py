"""The networks against a plain re-statement of their definition, the paper's parameter counts, and what measurements ask of them."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.config.parts import Network
from harness.core.networks import MLP, build, initialise
from harness.core.networks.layers import Conv2d, PositionalEmbedding, UNetBlock, attention, group_norm
from harness.core.randomness import generator
from harness.errors import HarnessError


def settings_of(kind="ddpmpp", **changes):
    """A network's settings, small unless changed."""
    small = {"base_channels": 8, "channel_mult": (1, 2), "num_blocks": (1, 2), "attention": (), "augment_dim": 0, "width": 32, "depth": 2}
    options = {"kind": kind, **small, **changes}
    return Network(**{"dropout": (0.0,) if kind == "mlp" else (0.0,) * len(options["num_blocks"]), **options})


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(module, seed=0):
    """The module in float64 with every weight far from its nearly-zero or zero start, so that no part of it is invisible."""
    random = rng(seed)
    for parameter in module.double().parameters():
        spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = (parameter.data * (parameter.ndim == 1) + spread * torch.randn(parameter.shape, generator=random)).double()
    return module


def batch(shape, n=3, seed=1):
    random = rng(seed)
    x = torch.randn(n, *shape, generator=random, dtype=torch.float64)
    return x, torch.linspace(-1.5, 1.1, n, dtype=torch.float64)


# The paper's settings (its tables of hyper-parameters) and the ECT network (EDM's CIFAR-10 one).
PAPER = {
    "cifar10": (settings_of(base_channels=128, channel_mult=(1, 2, 2), num_blocks=(3, 3, 3)), (3, 32, 32), 34_711_811),
    "imagenet32": (settings_of(base_channels=128, channel_mult=(1, 1, 2), num_blocks=(3, 5, 7), attention=(16,)), (3, 32, 32), 39_479_683),
    "celeba64": (settings_of(base_channels=128, channel_mult=(1, 2, 2, 2), num_blocks=(3, 3, 4, 5)), (3, 64, 64), 59_582_723),
    "ect": (
        settings_of(base_channels=128, channel_mult=(2, 2, 2), num_blocks=(4, 4, 4), attention=(16,), augment_dim=9),
        (3, 32, 32),
        55_733_891,
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_are_the_papers(name):
    network, shape, count = PAPER[name]
    assert sum(parameter.numel() for parameter in build(network, shape).parameters()) == count


def test_entry_names_and_shapes_are_edms():
    shapes = {name: tuple(tensor.shape) for name, tensor in build(*PAPER["ect"][:2]).state_dict().items()}
    expected = {
        "map_augment.weight": (128, 9),
        "map_layer0.weight": (512, 128),
        "map_layer1.bias": (512,),
        "enc.32x32_conv.weight": (128, 3, 3, 3),
        "enc.32x32_block0.norm0.weight": (128,),
        "enc.32x32_block0.skip.weight": (256, 128, 1, 1),
        "enc.32x32_block3.affine.weight": (256, 512),
        "enc.16x16_down.conv0.resample_filter": (1, 1, 2, 2),
        "enc.16x16_block0.qkv.weight": (768, 256, 1, 1),
        "dec.8x8_in0.proj.weight": (256, 256, 1, 1),
        "dec.16x16_up.skip.resample_filter": (1, 1, 2, 2),
        "dec.16x16_block4.norm2.bias": (256,),
        "dec.32x32_block4.conv1.weight": (256, 256, 3, 3),
        "dec.32x32_aux_norm.weight": (256,),
        "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert "dec.16x16_block3.qkv.weight" not in shapes  # on a level with attention the decoder has it in its last block alone
    assert "map_noise.frequencies" not in shapes
    classes = build(settings_of("ncsnpp", augment_dim=9), (1, 8, 8), label_dim=10).state_dict()
    extra = {"map_noise.freqs": (8,), "map_label.weight": (16, 10), "map_layer0.weight": (32, 16)}
    extra["enc.4x4_aux_residual.weight"] = (8, 1, 3, 3)
    assert {name: tuple(classes[name].shape) for name in extra} == extra
    assert classes["enc.4x4_aux_residual.resample_filter"][0, 0].tolist() == (np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64).tolist()


def plain_conv(state, name, x, up=False, down=False, fused=False):
    """EDM's convolution as it is defined: with explicit filters, whatever shortcut the network takes."""
    weight, bias, f = state[f"{name}.weight"], state[f"{name}.bias"], state.get(f"{name}.resample_filter")
    pad, channels = weight.shape[-1] // 2, x.shape[1]
    edge = 0 if f is None else (f.shape[-1] - 1) // 2
    if up:
        x = F.conv_transpose2d(x, 4 * f.repeat(channels, 1, 1, 1), stride=2, padding=edge, groups=channels)
    if down and not fused:
        x = F.conv2d(x, f.repeat(channels, 1, 1, 1), stride=2, padding=edge, groups=channels)
    if fused:
        x = F.conv2d(x, weight, padding=pad + edge)
        return F.conv2d(x, f.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1]) + bias[:, None, None]
    return F.conv2d(x, weight, bias, padding=pad)


def plain_norm(state, name, x):
    n, c, h, w = x.shape
    groups = x.reshape(n, min(32, c // 4), -1)
    normed = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return normed.reshape(n, c, h, w) * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def plain_block(state, name, x, emb):
    up, down = name.endswith("_up"), name.endswith("_down")
    y = plain_conv(state, f"{name}.conv0", F.silu(plain_norm(state, f"{name}.norm0", x)), up, down)
    y = y + (emb @ state[f"{name}.affine.weight"].T + state[f"{name}.affine.bias"])[:, :, None, None]
    y = plain_conv(state, f"{name}.conv1", F.silu(plain_norm(state, f"{name}.norm1", y)))
    y = (y + (plain_conv(state, f"{name}.skip", x, up, down) if f"{name}.skip.weight" in state else x)) / math.sqrt(2)
    if f"{name}.qkv.weight" not in state:
        return y
    n, c, h, w = y.shape
    q, k, v = plain_conv(state, f"{name}.qkv", plain_norm(state, f"{name}.norm2", y)).reshape(n, c, 3, h * w).unbind(2)
    weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c)).softmax(dim=2)
    attended = torch.einsum("nqk,nck->ncq", weights, v).reshape(n, c, h, w)
    return (plain_conv(state, f"{name}.proj", attended) + y) / math.sqrt(2)


def plain_unet(state, x, c_noise, labels=None):
    """The whole network from its state dict alone."""
    if "map_noise.freqs" in state:
        angles = 2 * math.pi * c_noise[:, None] * state["map_noise.freqs"]
    else:
        half = state["map_layer0.weight"].shape[1] // 2
        angles = c_noise[:, None] * torch.tensor([(1 / 10000) ** (k / (half - 1)) for k in range(half)], dtype=torch.float64)
    emb = torch.cat([angles.sin(), angles.cos()], dim=1)
    if "map_label.weight" in state:
        classes = state["map_label.weight"].shape[1]
        labels = torch.zeros(len(x), classes, dtype=x.dtype) if labels is None else labels
        emb = emb + math.sqrt(classes) * labels @ state["map_label.weight"].T + state["map_label.bias"]
    for layer in ("map_layer0", "map_layer1"):
        emb = F.silu(emb @ state[f"{layer}.weight"].T + state[f"{layer}.bias"])
    modules = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in state if name[:4] in ("enc.", "dec.")))
    skips, aux = [], x
    for name in modules:
        if name.endswith("_aux_residual"):
            x = aux = skips[-1] = (x + plain_conv(state, name, aux, down=True, fused=True)) / math.sqrt(2)
        elif name.endswith("_conv") and name.startswith("enc."):
            x = plain_conv(state, name, x)
            skips.append(x)
        elif name.startswith("enc."):
            x = plain_block(state, name, x, emb)
            skips.append(x)
        elif name.endswith("_aux_norm"):
            x = F.silu(plain_norm(state, name, x))
        elif name.endswith("_aux_conv"):
            x = plain_conv(state, name, x)
        else:
            x = plain_block(state, name, torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
    assert not skips
    return x


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp"])
@pytest.mark.parametrize(
    ("changes", "shape", "classes"),
    [
        ({}, (1, 8, 8), 0),
        ({"attention": (8, 4)}, (2, 8, 8), 3),
        ({"channel_mult": (1, 1, 2), "num_blocks": (1, 3, 2), "attention": (8,), "augment_dim": 9}, (3, 16, 16), 0),
        ({"base_channels": 12, "channel_mult": (2,), "num_blocks": (1,)}, (3, 6, 6), 0),
    ],
)
def test_the_network_is_its_plain_definition(kind, changes, shape, classes):
    module = shaken(build(settings_of(kind, **changes), shape, classes))
    if kind == "ddpmpp":
        half = len(module.map_noise.frequencies)
        module.map_noise.frequencies = torch.tensor([(1 / 10000) ** (k / (half - 1)) for k in range(half)], dtype=torch.float64)
    x, c = batch(shape)
    labels = F.one_hot(torch.tensor([0, 2, 1]), classes).double() if classes else None
    for given_labels in (labels, None):
        expected = plain_unet(module.state_dict(), x, c, given_labels)
        torch.testing.assert_close(module(x, c, given_labels), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.05


@given(st.sampled_from([(1, 1), (1, 3, 3, 1)]), st.sampled_from([1, 3]), st.booleans(), st.sampled_from([2, 4, 6]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_resampling_shortcuts_equal_the_filter_convolution(taps, kernel, up, size, seed):
    random = rng(seed)
    conv = Conv2d(3, 5, kernel, up=up, down=not up, resample_filter=taps).double()
    conv.weight.data = torch.randn(conv.weight.shape, generator=random, dtype=torch.float64)
    conv.bias.data = torch.randn(5, generator=random, dtype=torch.float64)
    x = torch.randn(2, 3, size, size, generator=random, dtype=torch.float64)
    state = {f"conv.{name}": tensor for name, tensor in conv.state_dict().items()}
    y = conv(x)
    assert y.shape[-1] == (2 * size if up else size // 2)
    torch.testing.assert_close(y, plain_conv(state, "conv", x, up=up, down=not up), rtol=1e-12, atol=1e-12)


def test_attention_is_softmax_attention_and_survives_large_scores():
    random = rng()
    q, k, v = (torch.randn(2, 7, 4, generator=random, dtype=torch.float64) for _ in range(3))
    weights = np.exp(np.einsum("nqc,nkc->nqk", q.numpy(), k.numpy()) / 2)
    expected = np.einsum("nqk,nkc->nqc", weights / weights.sum(2, keepdims=True), v.numpy())
    np.testing.assert_allclose(attention(q, k, v).numpy(), expected, rtol=1e-12)
    large = (200 * q).float()
    assert attention(large, 200 * k.float(), v.float()).isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the scores must not be rounded to bfloat16: 300 and 300.4 would be equal there
        q, k, v = torch.ones(1, 1, 1), torch.tensor([[[300.0], [300.4]]]), torch.tensor([[[0.0], [1.0]]])
        assert attention(q, k, v).item() == pytest.approx(1 / (1 + math.exp(-0.4)), rel=1e-4)


def test_embeddings_by_hand():
    c = torch.tensor([-1.0, 0.25])
    value = PositionalEmbedding(6)(c)
    by_hand = [[f(v * w) for f in (math.sin, math.cos) for w in (1.0, 0.01, 0.0001)] for v in (-1.0, 0.25)]
    np.testing.assert_allclose(value.numpy(), by_hand, atol=1e-7)
    freqs = build(settings_of("ncsnpp", base_channels=256, channel_mult=(1,), num_blocks=(1,)), (1, 8, 8)).map_noise.freqs
    assert freqs.std().item() == pytest.approx(16.0, rel=0.1)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "mlp"])
def test_weights_are_a_function_of_the_generator_alone(kind):
    shape = (2,) if kind == "mlp" else (1, 8, 8)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = build(settings_of(kind), shape, 2, generator(5, "init"))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    two, other = (build(settings_of(kind), shape, 2, generator(seed, "init")) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    again = initialise(copy.deepcopy(other), generator(5, "init"))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_initial_weights_follow_xavier_and_their_gains():
    module = build(settings_of(base_channels=32, num_blocks=(2, 2)), (1, 8, 8), 0, generator(1, "init"))
    block = module.dec["4x4_in0"]
    for layer, gain in [(block.conv0, 1.0), (block.conv1, 1e-5), (block.qkv, math.sqrt(0.2)), (block.proj, 1e-5), (block.affine, 1.0)]:
        out, fan = layer.weight.shape[0], layer.weight[0].numel()
        bound = gain * math.sqrt(6 / (fan + out * layer.weight[0, 0].numel()))
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert (layer.bias == 0).all()
    x, c = batch((1, 8, 8))
    assert 0 < module(x.float(), c.float()).abs().max() < 1e-3


def test_dropout_acts_on_its_level_and_in_training_only():
    module = build(settings_of(dropout=(0.0, 0.5)), (1, 8, 8))
    rates = {name: block.dropout for name, block in module.named_modules() if isinstance(block, UNetBlock)}
    assert all(rate == (0.5 if ".4x4_" in name else 0.0) for name, rate in rates.items()) and len(set(rates.values())) == 2
    shaken(module)
    x, c = batch((1, 8, 8))
    torch.manual_seed(0)
    first, second = module(x, c), module(x, c)
    torch.manual_seed(0)
    assert torch.equal(module(x, c), first) and not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(x, c), module(x, c))


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "mlp"])
def test_labels_matter_and_none_is_the_null_label(kind):
    shape = (2,) if kind == "mlp" else (1, 8, 8)
    module = shaken(build(settings_of(kind), shape, label_dim=3))
    x, c = batch(shape)
    label_0, label_1 = (F.one_hot(torch.full((3,), label), 3) for label in (0, 1))
    assert torch.equal(module(x, c), module(x, c, torch.zeros(3, 3)))
    assert not torch.allclose(module(x, c, label_0), module(x, c, label_1)) and not torch.allclose(module(x, c, label_0), module(x, c))
    with pytest.raises(ValueError, match="without classes"):
        build(settings_of(kind), shape)(x.float(), c.float(), label_0)


def test_augmentation_weights_change_nothing_but_stay_in_the_graph():
    module = shaken(build(settings_of(augment_dim=9), (1, 8, 8)))
    x, c = batch((1, 8, 8))
    before = module(x, c)
    module.map_augment.weight.data += 1.0
    assert torch.equal(module(x, c), before)
    module(x, c).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert (module.map_augment.weight.grad == 0).all()


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "mlp"])
def test_forward_mode_and_second_derivatives(kind):
    shape = (2,) if kind == "mlp" else (1, 8, 8)
    module = shaken(build(settings_of(kind, attention=()), shape)).eval()
    x, c = batch(shape, n=2)
    dx, dc = torch.randn(x.shape, generator=rng(3), dtype=x.dtype), torch.full_like(c, 0.01)
    value, tangent = torch.func.jvp(lambda x, c: module(x, c), (x, c), (dx, dc))
    assert torch.equal(value, module(x, c))
    h = 1e-5
    difference = (module(x + h * dx, c + h * dc) - module(x - h * dx, c - h * dc)) / (2 * h)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)

    def squared_gradient(x):
        (gradient,) = torch.autograd.grad(module(x, c).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    x.requires_grad_()
    (second,) = torch.autograd.grad(squared_gradient(x), x)
    slope = (squared_gradient(x + h * dx) - squared_gradient(x - h * dx)) / (2 * h)
    torch.testing.assert_close((second * dx).sum(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp"])
def test_channels_last_and_bfloat16(kind):
    module = shaken(build(settings_of(kind, attention=(8,)), (2, 8, 8))).float()
    x, c = (tensor.float() for tensor in batch((2, 8, 8)))
    expected = module(x, c)
    module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last), c), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(x, c)
    assert rough.dtype == torch.bfloat16
    assert ((rough - expected).std() / expected.std()).item() < 0.05
    rough.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_group_norm_of_rounded_images_is_computed_in_float32(dtype, layout):
    """Means and variances of rounded images are sums of thousands of values, so only the input and the output are rounded."""
    draws = generator(0, "measure")
    norm = group_norm(16)
    torch.nn.init.normal_(norm.weight, generator=draws)
    torch.nn.init.normal_(norm.bias, generator=draws)
    x = (1 + torch.randn(2, 16, 32, 32, generator=draws)).to(dtype).to(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    slope = torch.randn(y.shape, generator=draws).to(dtype)
    gradient = torch.autograd.grad(y, x, slope)[0]

    exact_x = x.detach().double().requires_grad_()
    groups = exact_x.reshape(2, 4, -1)
    normalised = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-6).sqrt()
    exact = normalised.reshape(x.shape) * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
    exact_gradient = torch.autograd.grad(exact, exact_x, slope.double())[0]
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    one_rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=one_rounding, atol=1e-4)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=one_rounding, atol=1e-4)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "mlp"])
def test_compiles_to_one_graph(kind):
    shape = (2,) if kind == "mlp" else (1, 8, 8)
    module = shaken(build(settings_of(kind, num_blocks=(1, 1)), shape, label_dim=2))
    x, c = batch(shape)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c), module(x, c))
    compiled(x, c).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_every_size_that_halves_evenly_is_accepted_and_kept(levels, blocks, times, channels):
    size = times * 2 ** (levels - 1)
    network = settings_of(base_channels=4, channel_mult=(1,) * levels, num_blocks=(blocks,) * levels)
    x, c = (tensor.float() for tensor in batch((channels, size, size), n=2))
    assert build(network, (channels, size, size))(x, c).shape == x.shape
    if levels > 1:
        with pytest.raises(HarnessError, match=f"multiple of {2 ** (levels - 1)}"):
            build(network, (channels, size + 1, size + 1))


@pytest.mark.parametrize(
    ("changes", "shape", "fact"),
    [
        ({}, (2,), r"shape \(2,\)"),
        ({}, (1, 8, 16), r"\(C, H, H\)"),
        ({"kind": "mlp"}, (1, 8, 8), r"\(d,\)"),
        ({"attention": (16,)}, (1, 8, 8), "resolution 16"),
        ({"base_channels": 6}, (1, 8, 8), "layer of 6 channels"),
        ({"base_channels": 132}, (1, 8, 8), "nearest: +a layer of 128 channels"),
    ],
)
def test_settings_that_do_not_fit_are_one_message(changes, shape, fact):
    with pytest.raises(HarnessError, match=fact):
        build(settings_of(**changes), shape)


def test_mlp_learns_a_function_of_point_and_noise():
    """The denoiser of two-dimensional Gaussian data, x s^2/(s^2 + t^2), through EDM's preconditioning targets."""
    module = build(settings_of("mlp", width=64, depth=2), (2,), 0, generator(0, "init"))
    assert isinstance(module, MLP)
    optimizer, random = torch.optim.Adam(module.parameters(), lr=3e-3), rng()

    def error(n):
        x = torch.randn(n, 2, generator=random)
        c = torch.rand(n, generator=random) * 2.6 - 1.5
        return F.mse_loss(module(x, c), x * torch.sigmoid(4 * c)[:, None])

    start = error(4096).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = error(256)
        loss.backward()
        optimizer.step()
    assert error(4096).item() < 0.01 * start


def test_deepcopy_and_state_dict_round_trip():
    module = shaken(build(settings_of("ncsnpp"), (1, 8, 8)))
    other = build(settings_of("ncsnpp"), (1, 8, 8), 0, generator(9, "init")).double()
    other.load_state_dict(module.state_dict())
    x, c = batch((1, 8, 8))
    assert torch.equal(other(x, c), module(x, c)) and torch.equal(copy.deepcopy(module)(x, c), module(x, c))
    assert isinstance(module, nn.Module)
