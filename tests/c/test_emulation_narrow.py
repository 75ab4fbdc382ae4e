"""Steps in 8 bits on an emulated Cortex-M7: bytes, multiply-adds and every bit as predicted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from channel_plans import every_other_channel, late_plan
from emulating import (
    NARROW,
    arrays,
    batches,
    board,
    check_emulated,
    check_narrow,
    narrow_trial,
    needs_emulator,
    scales_of,
)
from graphs import GraphBuilder, around_tiles, graphs, inverted_bottleneck, plans
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from measuring import traced
from operator_cases import POOLS
from running import copies, random_tensors

from costsim.base.errors import InputError
from costsim.c.emission.support import NARROW_OPTIMIZERS
from costsim.c.emulation.build import DoesNotFit
from costsim.c.emulation.toolchain import COMPILERS, find_compiler
from costsim.c.emulation.trial import LayerFault, Trial, least_memory
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, plan_arena
from costsim.ir.step import TrainingStep


@pytest.fixture(autouse=True)
def emulator() -> None:
    needs_emulator()


def check_drawn(data) -> None:
    graph = data.draw(graphs(simple=True))
    assume(graph.parameters)
    passes = data.draw(st.integers(1, 2))
    step = TrainingStep(
        graph.batch * passes,
        graph.batch,
        data.draw(st.sampled_from(NARROW_OPTIMIZERS)),
        data.draw(st.sampled_from(["immediate", "deferred"])),
        bits=NARROW,
    )
    program = compile_program(graph, data.draw(plans(graph)), step)
    check_narrow(program, random_tensors(graph, torch.float32))


@settings(max_examples=3)
@given(st.data())
def test_drawn_programs_do_what_is_predicted_bit_by_bit(data) -> None:
    check_drawn(data)


@pytest.mark.slow
@settings(max_examples=80)
@given(st.data())
def test_many_drawn_programs_do_what_is_predicted_bit_by_bit(data) -> None:
    check_drawn(data)


def test_inverted_bottlenecks_do_what_is_predicted_bit_by_bit() -> None:
    """Strided, depthwise, in groups, with clamps and a skip; both axes; four products at a time."""
    graph = inverted_bottleneck()
    step = TrainingStep(4, micro_batch=2, optimizer="momentum", bits=NARROW)
    program = compile_program(graph, every_other_channel(graph), step)
    check_narrow(program, random_tensors(graph, torch.float32), steps=3)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("5 taps a row, stride 2", "7 taps a row, stride 1", "several columns")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in around_tiles()
    ],
)
def test_sizes_around_the_tiles_do_what_is_predicted_bit_by_bit(name) -> None:
    """Words of four bytes are read where four bytes are: nothing beyond what an operation has."""
    graph = around_tiles()[name]
    step = TrainingStep(graph.batch, bits=NARROW)
    program = compile_program(graph, every_other_channel(graph), step)
    check_narrow(program, random_tensors(graph, torch.float32), steps=1)


@pytest.mark.parametrize("name", COMPILERS)
def test_every_compiler_keeps_every_promise(name) -> None:
    """In both widths: constants between instructions, and other inlining, change no count."""
    try:
        compiler = find_compiler(name)
    except InputError as error:
        pytest.skip(str(error))
    graph = inverted_bottleneck()
    tensors = random_tensors(graph, torch.float32)
    plan = every_other_channel(graph)
    step = TrainingStep(2, optimizer="momentum")
    check_emulated(compile_program(graph, plan, step), tensors, compiler=compiler)
    narrow = compile_program(graph, plan, replace(step, bits=NARROW))
    check_narrow(narrow, tensors, compiler=compiler)


def test_pools_do_what_is_predicted_bit_by_bit() -> None:
    g = GraphBuilder()
    x = g.add(POOLS[1], (g.relu(g.conv(g.input(1, 3, 12, 11), 5, 3)),))
    x = g.add(POOLS[5], (g.conv(x, 4, 3),))
    x = g.add(POOLS[6], (g.relu(x),))
    g.linear(g.pool(g.conv(x, 6, 1)), 3)
    graph = g.graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(bits=NARROW))
    check_narrow(program, random_tensors(graph, torch.float32))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param("mcunet-5fps", 32, marks=pytest.mark.slow),
        pytest.param("mcunet-5fps", 48, marks=pytest.mark.slow),
        pytest.param("mbv2-w0.35", 48, marks=pytest.mark.slow),
        pytest.param("proxyless-w0.3", 48, marks=pytest.mark.slow),
        pytest.param("mcunet-5fps", 128, marks=pytest.mark.slow),
        pytest.param("mbv2-w0.35", 128, marks=pytest.mark.slow),
        pytest.param("proxyless-w0.3", 128, marks=pytest.mark.slow),
    ],
)
def test_the_networks_do_what_is_predicted_bit_by_bit(name, side) -> None:
    network = traced(name, side=side)
    program = compile_program(network.graph, late_plan(network.graph), TrainingStep(bits=NARROW))
    check_narrow(program, copies(network.tensors), steps=1)


def limit_case():
    """MCUNet at 128 pixels in the 320 KiB of the STM32F746, and the stack that fills them."""
    network = traced("mcunet-5fps", side=128)
    tensors = copies(network.tensors)
    program = compile_program(network.graph, late_plan(network.graph), TrainingStep(bits=NARROW))
    x, memory = batches(program, 1)[0][0], board()[1]
    limit = memory.arena.size_bytes
    assert limit == 320 * 1024
    scales = scales_of(network.graph, tensors, torch.from_numpy(x))
    least = least_memory(program, arrays(tensors), memory, stack_bytes=1024, quantization=scales)
    stack = 1024 + limit - least  # what is left, so that every byte is somebody's
    assert plan_arena(program).size_bytes + 24 + stack == limit
    return program, tensors, memory, stack


def test_mcunet_at_128_runs_in_320_kib_to_the_last_byte() -> None:
    program, tensors, memory, stack = limit_case()
    x, labels = batches(program, 1)[0]
    trial, reference = narrow_trial(program, tensors, x, stack_bytes=stack)
    with trial:
        assert trial.step(x, labels) == reference.step(x, labels)
        painted = trial.emulator.unpainted(*trial.emulator.image.arena, 0xA5A5_5AA5)
    assert painted["end"] == plan_arena(program).size_bytes
    less = memory.limited(memory.arena.size_bytes - 1)
    with pytest.raises(DoesNotFit, match=r"fit in region 'RAM'(: overflowed by 1 bytes)?$"):
        narrow_trial(program, tensors, x, less, stack_bytes=stack)


@pytest.mark.slow
def test_mcunet_at_128_faults_in_one_byte_less() -> None:
    program, tensors, memory, stack = limit_case()
    x, labels = batches(program, 1)[0]
    trial, _ = narrow_trial(program, tensors, x, stack_bytes=stack)
    limited = memory.limited(memory.arena.size_bytes - 1)
    less = Trial(program, trial.weights, trial.firmware, memory=limited)
    with pytest.raises(LayerFault) as caught, less:
        less.step(x, labels)
    fault = caught.value.fault
    assert fault.address + fault.size > memory.arena.end - 1
    assert caught.value.layer in program.graph.layers


def test_predictions_in_8_bits_are_the_references() -> None:
    graph = inverted_bottleneck()
    tensors = random_tensors(graph, torch.float32)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2, bits=NARROW))
    x, labels = batches(program, 1)[0]
    trial, reference = narrow_trial(program, tensors, x)
    reference.step(x, labels)
    a = reference.quantization.values[graph.output]
    wanted = np.float32(a.scale) * (reference.values[graph.output].astype(np.float32) - a.zero)
    with trial:
        assert np.array_equal(trial.predict(x), wanted)


def test_biases_at_the_ends_of_32_bits_saturate() -> None:
    """A channel without weights has a tiny scale, and its bias lies there: sums must not wrap."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(1, 3, 6, 6), 6, 1))
    x = g.relu(g.conv(g.conv(x, 6, 3, groups=6), 5, 3))
    g.linear(g.pool(x), 4)
    graph = g.graph()
    tensors = random_tensors(graph, torch.float32)
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.shape[0] > 2:
            tensor[1] *= 1e-12
            tensor[2] *= 1e-12
    for name, tensor in tensors.items():
        if name.endswith("bias") and len(tensor) > 2:
            tensor[1], tensor[2] = 3.0, -3.0
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(bits=NARROW))
    images, _ = batches(program, 1)[0]
    _, reference = narrow_trial(program, tensors, images)
    ends = {int(v) for a in reference.weights.values() if a.dtype == np.int32 for v in a}
    assert {2**31 - 1, -(2**31)} <= ends
    check_narrow(program, tensors, steps=3)


def test_checks_of_8_bits_notice_a_single_unit() -> None:
    """What is compared would not be equal for weights of which one is off by one."""
    graph = inverted_bottleneck()
    tensors = random_tensors(graph, torch.float32)
    step = TrainingStep(2, bits=NARROW)
    program = compile_program(graph, every_other_channel(graph), step)
    x, labels = batches(program, 1)[0]
    trial, reference = narrow_trial(program, tensors, x)
    name = graph.parameters[0].name
    reference.weights[name].reshape(-1)[0] += 1
    with trial:
        trial.step(x, labels)
        found = trial.updated()
    reference.step(x, labels)
    assert not np.array_equal(found[name], reference.weights[name])
