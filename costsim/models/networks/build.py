"""The built-in networks as PyTorch modules, batch norm folded into the convolutions or not."""

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from costsim.models.networks.architectures import (
    Architecture,
    Block,
    ConvolutionSpec,
    block_convolutions,
    find_architecture,
)


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics and never updates them."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the network around it does."""
        return super().train(False)


class InvertedBottleneck(nn.Module):
    """`[expand ReLU6] depthwise ReLU6 project (+ input)`, each with its norm (or identity)."""

    expand: nn.Conv2d
    expand_norm: nn.Module
    depthwise: nn.Conv2d
    depthwise_norm: nn.Module
    project: nn.Conv2d
    project_norm: nn.Module

    def __init__(self, channels: int, block: Block, norm_eps: float | None) -> None:
        super().__init__()
        self.shortcut = block.shortcut
        self.expands = block.middle != channels
        for spec in block_convolutions("", channels, block):
            _add_convolution(self, spec.name.removeprefix("."), spec, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, channels, h, w]` to `[N, out, h / stride, w / stride]`."""
        y: Tensor = x
        if self.expands:
            y = functional.relu6(self.expand_norm(self.expand(y)))
        y = functional.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.shortcut else y


class Network(nn.Module):
    """A built-in network: `[N, 3, side, side]` with pixels in [-1, 1] to features `[N, C]`.

    Convolutions are `stem`, `blocks.I.expand`, `blocks.I.depthwise`, `blocks.I.project`, `mix`;
    with `batch_norm` each is followed by a `FrozenBatchNorm` of the same name plus `_norm`, and
    has no bias. Weights are left uninitialised: `build` draws
    them, `load_weights` reads them.
    """

    stem: nn.Conv2d
    stem_norm: nn.Module
    mix: nn.Conv2d
    mix_norm: nn.Module

    def __init__(self, architecture: Architecture, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.architecture = architecture
        self.batch_norm = batch_norm
        norm_eps = architecture.norm_eps if batch_norm else None
        specs = {spec.name: spec for spec in architecture.convolutions()}
        _add_convolution(self, "stem", specs["stem"], norm_eps)
        self.blocks = nn.Sequential(
            *(
                InvertedBottleneck(channels, block, norm_eps)
                for channels, block in zip(
                    architecture.block_inputs(), architecture.blocks, strict=True
                )
            )
        )
        if architecture.feature_mix:
            _add_convolution(self, "mix", specs["mix"], norm_eps)

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that are not to be trained (`requires_grad=False`)."""
        return frozenset(name for name, p in self.named_parameters() if not p.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, side, side]` to `[N, C]`."""
        x = functional.relu6(self.stem_norm(self.stem(x)))
        x = self.blocks(x)
        if self.architecture.feature_mix:
            x = functional.relu6(self.mix_norm(self.mix(x)))
        return x.mean((2, 3))

    def convolutions(self) -> Iterator[tuple[ConvolutionSpec, nn.Conv2d, nn.Module]]:
        """Each convolution in execution order with its norm (`nn.Identity` when folded)."""
        for spec in self.architecture.convolutions():
            convolution = self.get_submodule(spec.name)
            assert isinstance(convolution, nn.Conv2d)
            yield spec, convolution, self.get_submodule(f"{spec.name}_norm")


def _add_convolution(
    module: nn.Module, name: str, spec: ConvolutionSpec, norm_eps: float | None
) -> None:
    convolution = nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel,
        stride=spec.stride,
        padding=spec.kernel // 2,
        groups=spec.groups,
        bias=norm_eps is None,
        device="meta",
    )
    # Not `nn.utils.skip_init`, which does the same and loads a symbolic algebra for it: half a
    # second of every command.
    convolution.weight = nn.Parameter(torch.empty(spec.weight_shape))
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(torch.empty(spec.out_channels))
    module.add_module(name, convolution)
    norm = nn.Identity() if norm_eps is None else FrozenBatchNorm(spec.out_channels, eps=norm_eps)
    module.add_module(f"{name}_norm", norm)


def build(
    name: str, *, seed: int = 0, batch_norm: bool = False, feature_mix: bool = True
) -> Network:
    """The built-in network `name` in evaluation mode, initialised from `seed`.

    Weights are drawn as of He et al. (2015). Batch norms get the statistics of a few synthetic
    images drawn from the same seed, so that every channel has mean 0 and variance 1 on them and
    nothing vanishes or saturates with depth; the folded form is `fold` of that network. The
    global random state is untouched. Raises `InputError` for an unknown network.
    """
    architecture = find_architecture(name, feature_mix=feature_mix)
    return copy.deepcopy(drawn(architecture, seed, batch_norm, torch.get_default_dtype()))


@lru_cache(maxsize=4)
def drawn(architecture: Architecture, seed: int, batch_norm: bool, dtype: torch.dtype) -> Network:
    """The network that `build` returns copies of, drawn once in weights of the default `dtype`.

    Every cell of a study asks for the same one, and drawing it takes a second.
    """
    assert dtype == torch.get_default_dtype()
    generator = torch.Generator().manual_seed(seed)
    network = Network(architecture, batch_norm=True).eval()
    with torch.no_grad():
        for spec, convolution, _ in network.convolutions():
            fan_in = convolution.weight[0].numel()
            weight = torch.randn(spec.weight_shape, generator=generator)
            convolution.weight.copy_(weight * (2 / fan_in) ** 0.5)
    calibrate(network, synthetic_images(8, architecture.resolution, generator))
    return network if batch_norm else fold(network)


def synthetic_images(count: int, side: int, generator: torch.Generator) -> Tensor:
    """`[count, 3, side, side]` in [-1, 1]: noise at every scale, as photographs."""
    image = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        image += functional.interpolate(noise, size=(side, side), mode="bilinear") / cells**0.5
    return image.tanh()


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Set the statistics of every `FrozenBatchNorm` to those of its input on `images`."""

    def use_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, FrozenBatchNorm)
        norm.running_var, norm.running_mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)

    handles = [
        module.register_forward_pre_hook(use_statistics)
        for module in network.modules()
        if isinstance(module, FrozenBatchNorm)
    ]
    network(images)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def fold(network: Network) -> Network:
    """The folded form of a network with batch norm: a new module with equal outputs.

    `y = g (W x - m) / sqrt(v + eps) + b` is the convolution `W g / sqrt(v + eps)` with bias
    `b - m g / sqrt(v + eps)`. A network already folded is copied.
    """
    folded = Network(network.architecture).to(network.stem.weight.dtype)
    pairs = zip(network.convolutions(), folded.convolutions(), strict=True)
    for (_, source, norm), (_, target, _) in pairs:
        weight = source.weight.double()
        bias = torch.zeros(len(weight)).double() if source.bias is None else source.bias.double()
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = weight * scale[:, None, None, None]
            bias = norm.bias.double() + (bias - norm.running_mean.double()) * scale
        assert target.bias is not None
        target.weight.copy_(weight)
        target.bias.copy_(bias)
    return folded.eval()
