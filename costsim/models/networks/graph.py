"""The layer graph of a built-in network straight from its rows: what tracing it would give."""

from functools import lru_cache

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Add, BatchNorm, Clamp, Convolution, Input, Mean, Operator
from costsim.models.inputs import check_room, check_sizes, side_of
from costsim.models.networks.architectures import (
    Architecture,
    ConvolutionSpec,
    block_convolutions,
    find_architecture,
)


@lru_cache(maxsize=64)
def architecture_graph(
    network: str | Architecture,
    *,
    batch: int = 1,
    resolution: int | None = None,
    batch_norm: bool = False,
) -> LayerGraph:
    """The graph of `build(network, batch_norm=batch_norm)` over `[batch, 3, side, side]`.

    Equal to the traced graph of that module, but for the names of calls that own no parameter.
    Made once: what is kept of a graph by value is found again without comparing call by call.
    Raises `InputError` for an unknown network, and for images that it does not take.
    """
    check_sizes(batch, resolution)
    if isinstance(network, str):
        architecture = find_architecture(network)
        side = side_of(network, architecture.resolution, resolution)
    else:
        architecture, side = network, resolution or network.resolution
    check_room((1, 3, side, side))
    writer = _Writer(architecture.norm_eps if batch_norm else None)
    x = writer.call("input", Input((batch, 3, side, side)), ())
    specs = {spec.name: spec for spec in architecture.convolutions()}
    x = writer.convolution(specs["stem"], x)
    for index, (channels, block) in enumerate(
        zip(architecture.block_inputs(), architecture.blocks, strict=True)
    ):
        start = x
        for spec in block_convolutions(f"blocks.{index}", channels, block):
            x = writer.convolution(spec, x)
        if block.shortcut:
            x = writer.call(f"blocks.{index}.add", Add(), (start, x))
    if architecture.feature_mix:
        x = writer.convolution(specs["mix"], x)
    writer.call("features", Mean((2, 3)), (x,))
    return LayerGraph(writer.calls)


class _Writer:
    """Appends calls whose shapes follow from their operators."""

    def __init__(self, norm_eps: float | None) -> None:
        self.norm_eps = norm_eps
        self.calls: list[Call] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def call(
        self,
        name: str,
        operator: Operator,
        inputs: tuple[str, ...],
        layer: str | None = None,
        weight: Parameter | None = None,
        bias: Parameter | None = None,
        buffers: tuple[Parameter, ...] = (),
    ) -> str:
        shape = operator.output_shape(
            tuple(self.shapes[value] for value in inputs), weight.shape if weight else None
        )
        self.calls.append(Call(name, operator, inputs, shape, layer, weight, bias, buffers))
        self.shapes[name] = shape
        return name

    def convolution(self, spec: ConvolutionSpec, x: str) -> str:
        """A convolution, its batch norm where there is one, its ReLU6 where there is one."""
        channels = (spec.out_channels,)
        pad = spec.kernel // 2
        name = spec.name
        x = self.call(
            name,
            Convolution((spec.stride,) * 2, (pad,) * 2, (1, 1), spec.groups),
            (x,),
            name,
            Parameter(f"{name}.weight", spec.weight_shape),
            None if self.norm_eps else Parameter(f"{name}.bias", channels),
        )
        if self.norm_eps:
            x = self.call(
                f"{name}_norm",
                BatchNorm(self.norm_eps),
                (x,),
                f"{name}_norm",
                Parameter(f"{name}_norm.weight", channels),
                Parameter(f"{name}_norm.bias", channels),
                tuple(
                    Parameter(f"{name}_norm.{statistic}", channels)
                    for statistic in ("running_mean", "running_var")
                ),
            )
        return self.call(f"{name}_relu6", Clamp(0.0, 6.0, False), (x,)) if spec.activation else x
