"""The built-in networks as data: one row a block, read by the builder, the loaders and the graph.

Source of the rows: the published configurations of mcunet (MIT HAN Lab, MIT licence), "MCUNet:
Tiny Deep Learning on IoT Devices" (NeurIPS 2020). Blocks that those searches left empty (a zero
layer beside an identity shortcut) compute the identity and are not listed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from costsim.base.errors import InputError
from costsim.base.nearness import hint


@dataclass(frozen=True, slots=True)
class Block:
    """Inverted bottleneck: 1x1 expansion to `middle`, `kernel` depthwise, linear 1x1 to `out`.

    No expansion when `middle` equals the incoming channels. `shortcut`: the input is added.
    """

    kernel: int
    middle: int
    out: int
    stride: int = 1
    shortcut: bool = False


@dataclass(frozen=True, slots=True)
class ConvolutionSpec:
    """One convolution of a network: square kernel, padding `kernel // 2`.

    `name` is the module's; `activation`: ReLU6 follows, otherwise the output is linear.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    activation: bool

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """`[C_out, C_in/groups, k, k]`."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A feature extractor: 3x3 stem of stride 2, blocks, perhaps a final 1x1 mix, global mean.

    `resolution` is the side of the square RGB input, `norm_eps` the batch norm's epsilon of the
    published training, `feature_mix` the channels of the final 1x1 convolution with ReLU6.
    """

    name: str
    resolution: int
    blocks: tuple[Block, ...]
    norm_eps: float
    source: str
    stem: int = 16
    feature_mix: int | None = None

    @property
    def features(self) -> int:
        """Length of the feature vector."""
        return self.feature_mix or self.blocks[-1].out

    def without_feature_mix(self) -> "Architecture":
        """The same network ending at its last block."""
        return replace(self, feature_mix=None)

    def block_inputs(self) -> tuple[int, ...]:
        """Incoming channels of each block."""
        return (self.stem, *(block.out for block in self.blocks[:-1]))

    def convolutions(self) -> Iterator[ConvolutionSpec]:
        """Every convolution in execution order."""
        yield ConvolutionSpec("stem", 3, self.stem, 3, 2, 1, True)
        for index, (channels, block) in enumerate(
            zip(self.block_inputs(), self.blocks, strict=True)
        ):
            yield from block_convolutions(f"blocks.{index}", channels, block)
        if self.feature_mix:
            yield ConvolutionSpec("mix", self.blocks[-1].out, self.feature_mix, 1, 1, 1, True)


def block_convolutions(prefix: str, channels: int, block: Block) -> Iterator[ConvolutionSpec]:
    """The two or three convolutions of a block that receives `channels` channels."""
    if block.middle != channels:
        yield ConvolutionSpec(f"{prefix}.expand", channels, block.middle, 1, 1, 1, True)
    yield ConvolutionSpec(
        f"{prefix}.depthwise",
        block.middle,
        block.middle,
        block.kernel,
        block.stride,
        block.middle,
        True,
    )
    yield ConvolutionSpec(f"{prefix}.project", block.middle, block.out, 1, 1, 1, False)


_MCUNET = "MIT HAN Lab, mcunet, MIT licence"

MCUNET_5FPS = Architecture(
    name="mcunet-5fps",
    resolution=128,
    norm_eps=1e-5,
    source=_MCUNET,
    blocks=(
        Block(3, 16, 8),
        Block(3, 32, 16, stride=2),
        Block(3, 48, 16, shortcut=True),
        Block(7, 48, 24, stride=2),
        Block(3, 120, 24, shortcut=True),
        Block(3, 120, 40, stride=2),
        Block(7, 160, 40, shortcut=True),
        Block(5, 160, 48),
        Block(3, 144, 48, shortcut=True),
        Block(3, 192, 48, shortcut=True),
        Block(7, 240, 96, stride=2),
        Block(5, 384, 96, shortcut=True),
        Block(5, 384, 96, shortcut=True),
        Block(3, 576, 160),
    ),
)

MCUNET_320KB_1MB = Architecture(
    name="mcunet-320kb-1mb",
    resolution=176,
    norm_eps=1e-5,
    source=_MCUNET,
    blocks=(
        Block(3, 16, 8),
        Block(7, 24, 16, stride=2),
        Block(3, 80, 16, shortcut=True),
        Block(7, 80, 16, shortcut=True),
        Block(5, 64, 16, shortcut=True),
        Block(5, 80, 24, stride=2),
        Block(5, 120, 24, shortcut=True),
        Block(5, 120, 24, shortcut=True),
        Block(3, 120, 40, stride=2),
        Block(7, 240, 40, shortcut=True),
        Block(5, 160, 40, shortcut=True),
        Block(5, 200, 48),
        Block(7, 240, 48, shortcut=True),
        Block(3, 240, 48, shortcut=True),
        Block(3, 288, 96, stride=2),
        Block(7, 480, 96, shortcut=True),
        Block(3, 384, 96, shortcut=True),
        Block(7, 480, 160),
    ),
)

MBV2_W035 = Architecture(
    name="mbv2-w0.35",
    resolution=128,
    norm_eps=1e-3,
    source=_MCUNET,
    feature_mix=448,
    blocks=(
        Block(3, 16, 8),
        Block(3, 48, 8, stride=2),
        Block(3, 48, 8, shortcut=True),
        Block(3, 48, 16, stride=2),
        Block(3, 96, 16, shortcut=True),
        Block(3, 96, 16, shortcut=True),
        Block(3, 96, 24, stride=2),
        Block(3, 144, 24, shortcut=True),
        Block(3, 144, 24, shortcut=True),
        Block(3, 144, 24, shortcut=True),
        Block(3, 144, 32),
        Block(3, 192, 32, shortcut=True),
        Block(3, 192, 32, shortcut=True),
        Block(3, 192, 56, stride=2),
        Block(3, 336, 56, shortcut=True),
        Block(3, 336, 56, shortcut=True),
        Block(3, 336, 112),
    ),
)

PROXYLESS_W03 = Architecture(
    name="proxyless-w0.3",
    resolution=128,
    norm_eps=1e-3,
    source=_MCUNET,
    feature_mix=384,
    blocks=(
        Block(3, 16, 8),
        Block(5, 24, 16, stride=2),
        Block(3, 48, 16, shortcut=True),
        Block(7, 48, 16, stride=2),
        Block(3, 48, 16, shortcut=True),
        Block(5, 48, 16, shortcut=True),
        Block(5, 48, 16, shortcut=True),
        Block(7, 96, 24, stride=2),
        Block(5, 72, 24, shortcut=True),
        Block(5, 72, 24, shortcut=True),
        Block(5, 72, 24, shortcut=True),
        Block(5, 144, 32),
        Block(5, 96, 32, shortcut=True),
        Block(5, 96, 32, shortcut=True),
        Block(5, 96, 32, shortcut=True),
        Block(7, 192, 64, stride=2),
        Block(7, 384, 64, shortcut=True),
        Block(7, 192, 64, shortcut=True),
        Block(7, 192, 64, shortcut=True),
        Block(7, 384, 96),
    ),
)

NETWORKS: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (MCUNET_5FPS, MBV2_W035, PROXYLESS_W03, MCUNET_320KB_1MB)
}


def find_architecture(name: str, *, feature_mix: bool = True) -> Architecture:
    """The built-in network `name`, perhaps without its final 1x1 mix; raises `InputError`."""
    if name not in NETWORKS:
        near = hint(name, NETWORKS)
        raise InputError(f"network {name!r} is unknown; {near}built in are {', '.join(NETWORKS)}")
    architecture = NETWORKS[name]
    return architecture if feature_mix else architecture.without_feature_mix()
