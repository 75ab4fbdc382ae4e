"""TinyTL and AdapterDrop: biases, and small modules beside the blocks, are all that is trained.

Cai et al., "TinyTL: Reduce Memory, Not Parameters for Efficient On-Device Learning", NeurIPS 2020:
weights need their inputs kept, biases do not. What biases cannot learn, lite residual modules do:
beside each block, on its input at half the resolution, a grouped convolution, a non-linearity and
a 1x1 convolution, enlarged again and added to what the block gives. Rückle et al., "AdapterDrop",
EMNLP 2021, leave the modules of the first blocks out; here their biases stay frozen too, so that
the backward pass ends where they begin.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.backbone import Backbone
from costsim.models.networks.build import Network

SEED = 0
"""Of the modules' first weights, the same for every task."""

_LITE = "lite."


class LiteResidual(nn.Module):
    """What is added to a block: `[N, channels, h, w]` to `[N, out, h / stride, w / stride]`.

    Its last convolution starts at zero, so that at first it adds nothing. Norms are left out, as
    they are folded in the network; enlarging repeats pixels, where the authors interpolate.
    """

    def __init__(
        self, channels: int, out: int, stride: int, *, kernel: int, groups: int,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = math.gcd(groups, channels)
        self.conv1 = nn.Conv2d(
            channels, channels, kernel, stride=stride, padding=kernel // 2, groups=groups
        )
        self.conv2 = nn.Conv2d(channels, out, 1)
        with torch.no_grad():
            fan_in = self.conv1.weight[0].numel()
            drawn = torch.randn(self.conv1.weight.shape, generator=generator)
            self.conv1.weight.copy_(drawn * (2 / fan_in) ** 0.5)
            for parameter in (self.conv1.bias, self.conv2.weight, self.conv2.bias):
                assert parameter is not None
                parameter.zero_()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """`height` and `width` are those of the block's output."""
        if min(x.shape[2:]) > 1:
            x = functional.avg_pool2d(x, 2)
        y: Tensor = self.conv2(functional.relu6(self.conv1(x)))
        n, c, h, w = y.shape
        rows, columns = math.ceil(height / h), math.ceil(width / w)
        repeated = y.reshape(n, c, h, 1, w, 1).expand(n, c, h, rows, w, columns)
        return repeated.reshape(n, c, h * rows, w * columns)[:, :, :height, :width]


class LiteNetwork(nn.Module):
    """A built-in network with lite residual modules beside its blocks from `first` on."""

    def __init__(self, network: Network, first: int, *, kernel: int, groups: int) -> None:
        super().__init__()
        self.base = network
        architecture = network.architecture
        generator = torch.Generator().manual_seed(SEED)
        self.lite = nn.ModuleDict()
        for index, (channels, block) in enumerate(
            zip(architecture.block_inputs(), architecture.blocks, strict=True)
        ):
            module = LiteResidual(
                channels, block.out, block.stride, kernel=kernel, groups=groups, generator=generator
            )
            if index >= first:  # all are drawn: the same block has the same module in each variant
                self.lite[str(index)] = module

    def forward(self, x: Tensor) -> Tensor:
        """As the network's."""
        base = self.base
        x = functional.relu6(base.stem_norm(base.stem(x)))
        for index, block in enumerate(base.blocks):
            y = block(x)
            if str(index) in self.lite:
                y = y + self.lite[str(index)](x, y.shape[2], y.shape[3])
            x = y
        if base.architecture.feature_mix:
            x = functional.relu6(base.mix_norm(base.mix(x)))
        return x.mean((2, 3))


@dataclass(frozen=True)
class TinyTL(Method):
    """Biases and lite residual modules; with `dropped`, not those of that share of first blocks.

    Priced by tracing the network with its modules, whatever the budgets. Only for the built-in
    networks, whose blocks are known.
    """

    learning_rate: float = 0.003
    dropped: float = 0.0
    kernel: int = 5
    groups: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.dropped < 1:
            raise InputError(f"dropped is {self.dropped:g}; allowed is 0 to below 1")

    @property
    def name(self) -> str:
        """TinyTL, or AdapterDrop with the share of dropped modules."""
        return f"AdapterDrop-{self.dropped:.0%}" if self.dropped else "TinyTL"

    def backbone(self, backbone: Backbone) -> Backbone:
        """The network with its modules; raises `InputError` for one that is not built in."""
        key = (type(self), self.dropped, self.kernel, self.groups)
        return backbone.variant(key, self._with_modules)

    def _first(self, network: Network) -> int:
        return math.floor(self.dropped * len(network.architecture.blocks) + 0.5)

    def _with_modules(self, backbone: Backbone) -> Backbone:
        network = backbone.module
        if not isinstance(network, Network):
            raise InputError(
                f"{self.name}: {backbone.name} is no built-in network; its blocks are not known "
                "(BiasOnly trains the biases of any network)"
            )
        lite = LiteNetwork(
            copy.deepcopy(network), self._first(network), kernel=self.kernel, groups=self.groups
        )
        device, dtype = backbone.device, next(network.parameters()).dtype
        return Backbone(
            lite.to(device=device, dtype=dtype),
            backbone.input_shape,
            name=f"{backbone.name} with lite residual modules",
            provenance=backbone.provenance,
            backend=backbone.backend,
        )

    def choose(self, situation: Situation) -> Choice:
        """All of the modules, and the biases from the first of them on."""
        module = situation.backbone.module
        assert isinstance(module, LiteNetwork)
        return Choice(lite_plan(situation.graph, self._first(module.base)))


def lite_plan(graph: LayerGraph, first: int) -> UpdatePlan:
    """The lite modules whole, and the biases of the network from block `first` on.

    With no block left out the bias of the stem is among them.
    """
    modules = [name for name in graph.layers if name.startswith(_LITE)]
    frozen = tuple(f"base.blocks.{index}." for index in range(first))
    biases = {
        name
        for name in graph.layers
        if graph.selectable(name, "bias")
        and not name.startswith(frozen)
        and not (first and name.startswith("base.stem"))
    }
    return UpdatePlan(
        tuple(
            ChannelSubset(name, "output", tuple(range(graph.selectable_channels(name, "output"))))
            for name in modules
        ),
        frozenset(biases),
    )
