"""Instructions a multiply-accumulate of the emitted C in 8 bits, counted on an emulated Cortex-M7.

    python benchmarks/kernels.py [--compiler gcc] [--only TEXT] [--step NAME]

Not a time: what is printed is exact and the same on every machine, and instructions are not
cycles. Each row is one operation of a training step on the emulated core, every instruction of it
over its multiply-accumulates without padding taps; its own requantisation is in it. The multiply-
accumulates are those executed, which are the predicted ones or nothing is printed.

*Best known* are kernels of others, compiled by the same compiler and counted on the same emulator:
CMSIS-NN 99f736a (`arm_convolve_wrapper_s8`, `arm_depthwise_conv_wrapper_s8`; channels last, the
activation included) and TinyEngine 47bb283 (`pointwise_conv_fp_4row4col_IOHW_int8weight`,
`transpose_depthwise_conv_fp_kernel5_stride1`, `group_conv_fp_kernel8_4row16col_inplace`).

With `--step`, a built-in network, a whole step is counted as well, by kinds of operations: over
one image of 128 x 128, a quarter of the output channels of 6 of the last 15 convolutions.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from costsim.c.emission import quantize_ranges
from costsim.c.emulation.counting import Work, count_work
from costsim.c.emulation.memory_map import memory_map
from costsim.c.emulation.stack import stack_bound
from costsim.c.emulation.toolchain import COMPILERS, Compiler, find_compiler
from costsim.c.emulation.trial import Trial
from costsim.device import load_device
from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Convolution, Input, Linear, Mean
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Direction, TrainingProgram, compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.networks.graph import architecture_graph


@dataclass(frozen=True)
class Layer:
    """A convolution of a small network."""

    outputs: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False


@dataclass(frozen=True)
class Row:
    """A kernel that is counted: which layer of which network, and what others need for it."""

    title: str
    network: str
    layer: int
    direction: Direction
    best: str = ""


NETWORKS = {
    "bottleneck": (8, (Layer(48), Layer(240), Layer(240, 5, 1, True), Layer(48))),
    "three": (16, (Layer(144), Layer(144, 3, 1, True))),
    "strided": (32, (Layer(48), Layer(48, 3, 2, True))),
    "seven": (8, (Layer(240), Layer(240, 7, 1, True))),
    "first": (64, (Layer(16, 3, 2),)),
}
"""The side of the images, of three channels, and the convolutions; a mean and a head follow."""

FORWARD, SPREAD = Direction.FORWARD, Direction.INPUT_GRADIENT
CORRELATE = Direction.WEIGHT_GRADIENT
ROWS = (
    Row("pointwise 48→240, 8×8, forward", "bottleneck", 1, FORWARD, "2.29 CMSIS-NN"),
    Row("pointwise 240→48, 8×8, forward", "bottleneck", 3, FORWARD, "1.61 CMSIS-NN"),
    Row("depthwise 3×3, 144, 16×16, forward", "three", 1, FORWARD, "8.61 CMSIS-NN"),
    Row("depthwise 3×3 stride 2, 48, 32×32, forward", "strided", 1, FORWARD, "8.48 CMSIS-NN"),
    Row("depthwise 5×5, 240, 8×8, forward", "bottleneck", 2, FORWARD, "11.66 CMSIS-NN"),
    Row("depthwise 7×7, 240, 8×8, forward", "seven", 1, FORWARD, "11.97 CMSIS-NN"),
    Row("first 3×3 stride 2, 3→16, 64×64, forward", "first", 0, FORWARD, "4.98 CMSIS-NN"),
    Row("pointwise 48→240, 8×8, input gradient", "bottleneck", 1, SPREAD, "5.50 TinyEngine"),
    Row("pointwise 240→48, 8×8, input gradient", "bottleneck", 3, SPREAD),
    Row("pointwise 48→240, 8×8, weight gradient", "bottleneck", 1, CORRELATE, "3.90 TinyEngine"),
    Row("pointwise 240→48, 8×8, weight gradient", "bottleneck", 3, CORRELATE),
    Row("depthwise 5×5, 240, 8×8, input gradient", "bottleneck", 2, SPREAD, "8.79 TinyEngine"),
    Row("depthwise 7×7, 240, 8×8, input gradient", "seven", 1, SPREAD),
    Row("depthwise 5×5, 240, 8×8, weight gradient", "bottleneck", 2, CORRELATE),
    Row("depthwise 7×7, 240, 8×8, weight gradient", "seven", 1, CORRELATE),
    Row("first 3×3 stride 2, 3→16, 64×64, weight gradient", "first", 0, CORRELATE),
)


def graph_of(name: str) -> LayerGraph:
    """A small network; its convolutions are the layers `"0"`, `"1"`, ..."""
    side, layers = NETWORKS[name]
    calls = [Call("images", Input((1, 3, side, side)), (), (1, 3, side, side))]

    def add(name: str, operator: Convolution | Linear, weight: tuple[int, ...]) -> None:
        before = calls[-1]
        shape = operator.output_shape([before.shape], weight)
        of_weight = Parameter(f"{name}.weight", weight)
        of_bias = Parameter(f"{name}.bias", weight[:1])
        calls.append(Call(name, operator, (before.name,), shape, name, of_weight, of_bias))

    for number, layer in enumerate(layers):
        groups = layer.outputs if layer.depthwise else 1
        around = (layer.kernel // 2,) * 2
        operator = Convolution((layer.stride,) * 2, around, (1, 1), groups)
        inputs = calls[-1].shape[1] // groups
        add(str(number), operator, (layer.outputs, inputs, layer.kernel, layer.kernel))
    last = calls[-1]
    calls.append(Call("mean", Mean((2, 3)), (last.name,), last.shape[:2]))
    add("head", Linear(), (4, last.shape[1]))
    return LayerGraph(calls)


def some_channels(graph: LayerGraph) -> UpdatePlan:
    """A quarter of the output channels of 6 of the last 15 convolutions, evenly spread."""
    names = [call.layer for call in graph.calls if isinstance(call.operator, Convolution)]
    layers = [name for name in names if name is not None]
    chosen = (*layers[-15::3], layers[-1])
    subsets = []
    for name in chosen:
        count = graph.selectable_channels(name, "output")
        subsets.append(ChannelSubset(name, "output", tuple(range(0, count, 4))))
    return UpdatePlan(tuple(subsets), frozenset())


def weights_of(graph: LayerGraph) -> Mapping[str, NDArray[np.float32]]:
    """Weights as they are drawn for training; biases of nothing."""
    generator = np.random.default_rng(0)
    found = {}
    for parameter in graph.parameters:
        inputs = np.prod(parameter.shape[1:]) if len(parameter.shape) > 1 else 0
        drawn = generator.normal(size=parameter.shape) * (inputs and (2 / inputs) ** 0.5)
        found[parameter.name] = drawn.astype(np.float32)
    return found


def work_of(program: TrainingProgram, compiler: Compiler) -> tuple[Mapping[int, Work], int]:
    """What each operation of one step executes, and the deepest stack in bytes.

    On a core with as much memory as it needs. What is executed depends on no value: ranges are
    made up.
    """
    graph = program.graph
    weights = weights_of(graph)
    ranges = {call.name: (-4.0, 4.0) for call in graph.calls}
    memory = memory_map(load_device("stm32f746"))
    memory = replace(memory, arena=replace(memory.arena, size_bytes=1 << 23))
    memory = replace(memory, stack=memory.arena)
    trial = Trial.of(
        program,
        weights,
        memory,
        quantization=quantize_ranges(graph, weights, ranges),
        compiler=compiler,
        stack_bytes=8192,
    )
    shape = graph[graph.input].shape
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with trial:
        trial.emulator.clear()
        trial.step(images, np.zeros(shape[0], np.int32))
        found = count_work(trial.emulator.image, trial.emulator.profile())
        stack = stack_bound(trial.emulator.image, "costsim_train_step")
    for position, op in enumerate(program.operations):
        wanted = program.times(op) * op.unpadded_macs
        if op.macs and found[position].macs != wanted:
            sys.exit(f"{op.name}: {found[position].macs} multiply-accumulates, not {wanted}")
    return found, stack


STEP = TrainingStep(bits=BitWidths(8, 8, 32, 32))


@cache
def step_of(name: str, compiler: Compiler) -> tuple[TrainingProgram, Mapping[int, Work], int]:
    """One step that trains all of a small network."""
    graph = graph_of(name)
    program = compile_program(graph, UpdatePlan.full(graph), STEP)
    return program, *work_of(program, compiler)


def counted(row: Row, compiler: Compiler) -> tuple[float, int]:
    """Instructions a multiply-accumulate of a row, and the stack of its network's step."""
    program, found, stack = step_of(row.network, compiler)
    (work,) = (
        found[position]
        for position, op in enumerate(program.operations)
        if op.call == str(row.layer) and op.direction is row.direction
    )
    return work.instructions / work.macs, stack


def whole_step(name: str, compiler: Compiler) -> dict[str, tuple[int, int]]:
    """Of one step of a built-in network, by kinds of operations: instructions and MACs."""
    graph = architecture_graph(name, resolution=128)
    program = compile_program(graph, some_channels(graph), STEP)
    found, _ = work_of(program, compiler)
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for position, work in found.items():
        op = program.operations[position] if position >= 0 else None
        kind = "around the operations" if op is None else op.direction.value
        if op is not None and op.call is not None:
            call = graph[op.call]
            what = call.operator.work_kind(graph.shapes(call)) if op.macs else call.operator.kind
            kind = f"{what.replace('_', ' ')}, {kind}"
        totals[kind][0] += work.instructions
        totals[kind][1] += work.macs
    totals["all"] = [sum(column) for column in zip(*totals.values(), strict=True)]
    return {kind: (total[0], total[1]) for kind, total in totals.items()}


def main() -> None:
    """Count every row and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compiler", choices=COMPILERS, default="gcc", help="(default: gcc)")
    parser.add_argument("--only", default="", help="rows whose title contains this")
    parser.add_argument("--step", help="a built-in network: its whole step is counted as well")
    arguments = parser.parse_args()
    compiler = find_compiler(arguments.compiler)
    print(f"Instructions a MAC, 8 bits, {compiler.title}\n")
    print("| kernel | now | best known | stack |\n|---|---:|---|---:|")
    for row in ROWS:
        if arguments.only in row.title:
            now, stack = counted(row, compiler)
            print(f"| {row.title} | {now:.2f} | {row.best or '–'} | {stack:,} B |", flush=True)
    if arguments.step:
        print(
            f"\n| a step of {arguments.step} | instructions | MACs | a MAC |\n|---|---:|---:|---:|"
        )
        parts = whole_step(arguments.step, compiler)
        for kind, (instructions, macs) in sorted(parts.items(), key=lambda part: -part[1][0]):
            ratio = f"{instructions / macs:.2f}" if macs else "–"
            print(f"| {kind} | {instructions:,} | {macs:,} | {ratio} |")


if __name__ == "__main__":
    main()
