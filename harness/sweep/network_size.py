"""Parameters and activations of a run's network, from its config alone. No torch, so that a plan can say what does not fit.

The layers are counted as the network builds them, under the same rules of what fits together (harness.config.network_rules).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.config.network_rules import attention_heads, normalisation_groups, resolutions
from harness.config.parts import Network
from harness.config.run import Run
from harness.data.catalogue import info_of


@dataclass
class NetworkSize:
    """parameters: their number. activations: values that the backward pass of one row keeps."""

    parameters: int = 0
    activations: int = 0
    _of_embedding: int = field(default=0, repr=False)

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> None:
        self.parameters += inputs * outputs + outputs * bias
        self.activations += inputs

    def convolution(self, inputs: int, outputs: int, kernel: int) -> None:
        self.parameters += inputs * outputs * kernel**2 + outputs

    def norm_and_silu(self, channels: int, pixels: int) -> None:
        """What three layers keep: the input of the normalisation, of SiLU, and of the convolution behind it."""
        normalisation_groups(channels)
        self.parameters += 2 * channels
        self.activations += 3 * channels * pixels

    def block(self, inputs: int, outputs: int, before: int, pixels: int, *, dropout: float, attention: bool = False) -> None:
        """A residual block of the U-Net (harness.core.networks.layers.UNetBlock). before, pixels: of its input and of its output."""
        self.norm_and_silu(inputs, before)
        self.convolution(inputs, outputs, 3)
        self.linear(self._of_embedding, outputs)
        self.norm_and_silu(outputs, pixels)
        self.convolution(outputs, outputs, 3)
        self.activations += int(1.25 * outputs * pixels) if dropout else 0
        if before != pixels:
            self.activations += 2 * inputs * pixels  # what was resampled, for the block and for its skip
        if inputs != outputs or before != pixels:
            self.convolution(inputs, outputs, 1)
        if attention:
            self.parameters += 2 * outputs
            self.convolution(outputs, 3 * outputs, 1)
            self.convolution(outputs, outputs, 1)
            self.activations += 7 * outputs * pixels + pixels**2


def network_size(run: Run) -> NetworkSize:
    """The size of a run's network. Raises HarnessError for an unknown data set, and for a U-Net that does not fit its images."""
    dataset, network = info_of(run.data), run.network
    classes = dataset.classes if run.data.labels else 0
    size = NetworkSize()
    if network.kind == "linear":
        size.parameters, size.activations = getattr(run.objective, "n1", 0) + 1, 2 * dataset.dim
    elif network.kind == "mlp":
        _mlp(size, network, dataset.dim, classes)
    elif network.kind == "edm2":
        _edm2(size, network, dataset.shape[0], dataset.shape[-1], classes)
    else:
        _unet(size, network, dataset.shape[0], dataset.shape[-1], classes)
    return size


def _mlp(size: NetworkSize, network: Network, dim: int, classes: int) -> None:
    width = network.width
    size.linear(9, width)
    if classes:
        size.linear(classes, width)
    size.linear(dim, width)
    for _ in range(network.depth):
        size.linear(width, width)
        size.linear(width, width)
        size.activations += width + int(1.25 * width) * bool(network.dropout[0])
    size.linear(width, dim)
    size.activations += 2 * width


def _unet(size: NetworkSize, network: Network, channels: int, side: int, classes: int) -> None:
    """As harness.core.networks.songunet.SongUNet builds it."""
    base, residual = network.base_channels, network.kind == "ncsnpp"
    of_noise = base * (2 if residual else 1)
    size._of_embedding = 4 * base
    if classes:
        size.linear(classes, of_noise)
    if network.augment_dim:
        size.linear(network.augment_dim, of_noise, bias=False)
    size.linear(of_noise, 4 * base)
    size.linear(4 * base, 4 * base)

    size.convolution(channels, base, 3)
    width, auxiliary, pixels, skips = base, channels, side**2, [base]
    levels = list(zip(network.channel_mult, network.num_blocks, network.dropout, strict=True))
    sides = resolutions(side, len(levels), network.attention)
    for level, (mult, blocks, dropout) in enumerate(levels):
        resolution = sides[level]
        if level:
            before, pixels = pixels, resolution**2
            size.block(width, width, before, pixels, dropout=dropout)
            skips.append(width)
            if residual:
                size.convolution(auxiliary, width, 3)
                size.activations += auxiliary * before + width * before
                auxiliary = width
        for _ in range(blocks):
            size.block(width, base * mult, pixels, pixels, dropout=dropout, attention=resolution in network.attention)
            width = base * mult
            skips.append(width)
    for level, (mult, blocks, dropout) in reversed(list(enumerate(levels))):
        resolution = sides[level]
        before, pixels = pixels, resolution**2
        if level == len(levels) - 1:
            size.block(width, width, pixels, pixels, dropout=dropout, attention=True)
            size.block(width, width, pixels, pixels, dropout=dropout)
        else:
            size.block(width, width, before, pixels, dropout=dropout)
        for index in range(blocks + 1):
            attends = index == blocks and resolution in network.attention
            size.block(width + skips.pop(), base * mult, pixels, pixels, dropout=dropout, attention=attends)
            width = base * mult
    size.norm_and_silu(width, pixels)
    size.convolution(width, channels, 3)


def _edm2(size: NetworkSize, network: Network, channels: int, side: int, classes: int) -> None:
    """As harness.core.networks.edm2.EDM2UNet builds it: no biases, one gain per block and one of the output."""
    widths = [network.base_channels * mult for mult in network.channel_mult]
    of_embedding, pixels, sides = max(widths), side**2, resolutions(side, len(widths), network.attention)
    size.parameters += 1 + (widths[0] + classes) * of_embedding

    def block(inputs: int, outputs: int, level: int, *, decoder: bool, attends: bool = False, before: int = 0) -> None:
        """before: pixels of the input, where the block has another number."""
        size.parameters += 1 + 9 * outputs * ((inputs if decoder else outputs) + outputs) + of_embedding * outputs
        size.activations += (2 * inputs + 4 * outputs if decoder else 7 * outputs) * pixels + (0 if decoder else inputs * before)
        size.activations += int(0.25 * outputs * pixels) if network.dropout[level] else 0
        if inputs != outputs:
            size.parameters += inputs * outputs
            size.activations += 0 if decoder else inputs * pixels
        if attends:
            size.parameters += 4 * outputs**2
            size.activations += 9 * outputs * pixels + attention_heads(outputs, network.channels_per_head) * pixels**2

    size.parameters += 9 * (channels + 1) * widths[0]
    size.activations += (channels + 1) * pixels
    width, skips = widths[0], [widths[0]]
    for level, out in enumerate(widths):
        resolution = sides[level]
        if level:
            before, pixels = pixels, resolution**2
            block(width, width, level, decoder=False, before=before)
            skips.append(width)
        for _ in range(network.num_blocks[level]):
            block(width, out, level, decoder=False, attends=resolution in network.attention)
            width = out
            skips.append(width)
    for level, out in reversed(list(enumerate(widths))):
        resolution = sides[level]
        pixels = resolution**2
        block(width, width, level, decoder=True, attends=level == len(widths) - 1)
        if level == len(widths) - 1:
            block(width, width, level, decoder=True)
        for _ in range(network.num_blocks[level] + 1):
            block(width + skips.pop(), out, level, decoder=True, attends=resolution in network.attention)
            width = out
    size.parameters += 9 * width * channels
    size.activations += width * pixels
