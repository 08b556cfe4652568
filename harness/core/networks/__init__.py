"""The networks F of the consistency function f = c_skip x + c_out F(c_in x, c_noise): U-Nets for images, MLP and linear for points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.config.parts import Network
from harness.core.networks.edm2 import EDM2UNet, FourierFeatures, UnitConv
from harness.core.networks.layers import Conv2d, FourierEmbedding, Linear
from harness.core.networks.linear import LevelScaling
from harness.core.networks.mlp import MLP
from harness.core.networks.songunet import SongUNet
from harness.core.randomness import generator as addressed
from harness.errors import HarnessError


def build(
    network: Network, shape: tuple[int, ...], label_dim: int = 0, generator: torch.Generator | None = None, levels: Tensor | None = None
) -> nn.Module:
    """The network for data of `shape` (C, H, W) or (d,), its weights drawn from `generator` (on the CPU; None for seed 0).

    levels: the grid of noise levels (N,), needed by the linear network. The module maps (x (N, *shape), c_noise (N,), labels (N, label_dim)
    one-hot or None) to a tensor like x. Raises HarnessError where the network does not fit the data.
    """
    if network.kind in ("mlp", "linear"):
        if len(shape) != 1:
            raise HarnessError(
                f"network.kind = {network.kind} takes points, not images", where="network.kind", found=f"data of shape {shape}",
                expected="data of shape (d,)", nearest="ddpmpp",
            )  # fmt: skip
        if network.kind == "mlp":
            module: nn.Module = MLP(network, dim=shape[0], label_dim=label_dim)
        elif levels is None or label_dim:
            reason = "no grid" if levels is None else f"{label_dim} classes"
            raise HarnessError("a linear network needs a grid of noise levels and takes no labels", where="network.kind", found=reason)
        else:
            module = LevelScaling(levels)
    else:
        if len(shape) != 3 or shape[1] != shape[2]:
            raise HarnessError(
                "a U-Net takes square images", where="network.kind", found=f"data of shape {shape}", expected="data of shape (C, H, H)",
                nearest="mlp" if len(shape) == 1 else None,
            )  # fmt: skip
        architecture = EDM2UNet if network.kind == "edm2" else SongUNet
        module = architecture(network, size=shape[1], channels=shape[0], label_dim=label_dim)
    return initialise(module, addressed(0, "init") if generator is None else generator)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Fills every weight of a network from `generator`, in module order, and returns the network.

    Weights are Xavier-uniform times their layer's gain, biases zero, Fourier frequencies normal; EDM2's weights are normal, its gains stay
    zero and its phases are uniform.
    """
    for layer in module.modules():
        if isinstance(layer, Linear | Conv2d):
            nn.init.xavier_uniform_(layer.weight, gain=layer.gain, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, FourierEmbedding):
            layer.freqs.normal_(generator=generator).mul_(layer.scale)
        elif isinstance(layer, UnitConv):
            layer.weight.normal_(generator=generator)
        elif isinstance(layer, FourierFeatures):
            layer.freqs.normal_(generator=generator).mul_(2 * math.pi)
            layer.phases.uniform_(generator=generator).mul_(2 * math.pi)
    return module
