"""Emitted C in 8 bits: bit-exact to the numpy reference, close to floats, honest about both."""

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from channel_plans import every_other_channel
from emitting import Emitted
from graphs import GraphBuilder, around_tiles, graphs, inverted_bottleneck, plans
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from operator_cases import POOLS
from running import random_images, random_tensors
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.c.emission import EmissionOptions, emit, integers, quantize_ranges
from costsim.c.emission.float32 import fused_sum
from costsim.c.emission.quantization import HIGH, LOW, Affine
from costsim.c.emission.reference import Reference
from costsim.c.emission.support import NARROW_OPTIMIZERS
from costsim.cli import main
from costsim.ir.operators import (
    Mean,
    Sigmoid,
    elements,
)
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Category, Direction, compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.run.execution.forward import evaluate

BITS = BitWidths(8, 8, 32, 32)


def arrays(tensors):
    return {name: tensor.float().numpy().copy() for name, tensor in tensors.items()}


def quantized(graph, tensors, x):
    """Ranges as the float network has them on a batch."""
    names = [call.name for call in graph.calls]
    part = x[: graph.batch]
    _, values = evaluate(graph, tensors, part, names)
    ranges = {name: (float(v.min()), float(v.max())) for name, v in values.items()}
    return quantize_ranges(graph, arrays(tensors), ranges)


def labels_for(graph, step):
    shape = graph[graph.output].shape
    return np.arange(shape[0] * step.passes, dtype=np.int32) % (elements(shape) // shape[0])


def check_bit_exact(graph, plan, step, count=2, rate=2.0):
    tensors = random_tensors(graph, torch.float32)
    x = random_images(graph, step, torch.float32)
    quantization = quantized(graph, tensors, x)
    options = EmissionOptions(learning_rate=rate)
    program = compile_program(graph, plan, replace(step, bits=BITS))
    weights = integers(graph, arrays(tensors), quantization)
    reference = Reference(program, weights, quantization, options)
    emitted = Emitted(program, arrays(tensors), options=options, quantization=quantization)
    images, labels = x.numpy(), labels_for(graph, step)
    for _ in range(count):
        expected = reference.step(images, labels)
        assert emitted.step(images, labels) == expected
    for name, array in emitted.updated().items():
        assert np.array_equal(array, weights[name]), name
    return emitted, weights


def pooled(pool):
    """Convolutions around a pool: gradients come back through it, some of overlapping windows."""
    g = GraphBuilder()
    x = g.add(pool, (g.conv(g.input(2, 3, 9, 8), 5, 3),))
    x = g.relu(g.conv(x, 4, 1))
    g.linear(g.pool(x), 3)
    return g.graph()


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pools_are_bit_exact(pool):
    graph = pooled(pool)
    emitted, _ = check_bit_exact(graph, UpdatePlan.full(graph), TrainingStep(2), rate=5.0)
    x = random_images(graph, TrainingStep(2), torch.float32).numpy()
    assert emitted.stray_writes(x, labels_for(graph, TrainingStep(2))) == []


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pools_in_8_bits_are_those_of_pytorch(pool):
    """Of integers as floats: maxima and their gradient exactly, averages to half a unit."""
    graph = pooled(pool)
    tensors = random_tensors(graph, torch.float32)
    step = TrainingStep(2, bits=BITS)
    x = random_images(graph, step, torch.float32)
    quantization = quantized(graph, tensors, x)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    stored = integers(graph, arrays(tensors), quantization)
    reference = Reference(program, stored, quantization, EmissionOptions())
    reference.step(x.numpy(), labels_for(graph, step))
    call = next(c for c in graph.calls if c.operator.kind == pool.kind)
    before, after = (quantization.values[n] for n in (call.inputs[0], call.name))
    value = reference.values[call.inputs[0]].astype(np.float32) - before.zero
    given = torch.tensor(value * np.float32(before.scale), requires_grad=True)
    match pool.kind:
        case "max_pool":
            y = F.max_pool2d(given, pool.kernel, pool.stride, pool.padding, pool.dilation,
                             pool.ceil_mode)  # fmt: skip
        case "average_pool":
            y = F.avg_pool2d(given, pool.kernel, pool.stride, pool.padding, pool.ceil_mode,
                             pool.count_padding)  # fmt: skip
        case _:
            y = F.adaptive_avg_pool2d(given, pool.output)
    units = reference.values[call.name].astype(np.float32)
    inside = (units > LOW) & (units < HIGH)  # what saturates is elsewhere
    assert inside.mean() > 0.8
    allowed = 1e-6 if pool.kind == "max_pool" else 0.501 * after.scale
    found = (units - after.zero) * np.float32(after.scale)
    assert np.abs(found - y.detach().numpy())[inside].max() <= allowed
    (op,) = [
        op for op in program.operations
        if op.call == call.name and op.direction is Direction.INPUT_GRADIENT
    ]  # fmt: skip
    dy = reference.gradients[op.reads[0].buffer].reshape(call.shape)
    y.backward(torch.tensor(dy))
    dx = reference.gradients[op.writes[0].buffer].reshape(given.shape)
    assert np.allclose(dx, given.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_a_clamp_over_all_integers_is_no_statement():
    """Unless its mask is asked for: the convolution before it has cut off what a ReLU6 does."""
    graph = inverted_bottleneck()
    bodies = clamp_calls(graph, UpdatePlan()), clamp_calls(graph, UpdatePlan.full(graph))
    assert [count for count, _ in bodies] == [0, 4]
    assert all(masks == count for count, masks in bodies)


def clamp_calls(graph, plan):
    """Calls of the clamp in emitted C, and how many of them write a mask."""
    step = TrainingStep(graph.batch, bits=BITS)
    tensors = random_tensors(graph, torch.float32)
    x = random_images(graph, step, torch.float32)
    program = compile_program(graph, plan, step)
    source = emit(program, arrays(tensors), quantization=quantized(graph, tensors, x))
    text = source["costsim_model.c"]
    assert isinstance(text, str)
    found = re.findall(r"costsim_q_clamp\(.*", text)
    return len(found), sum("NULL" not in call for call in found)


@pytest.mark.parametrize("optimizer", NARROW_OPTIMIZERS)
@pytest.mark.parametrize("passes", [1, 2])
def test_inverted_bottlenecks_are_bit_exact(optimizer, passes):
    graph = inverted_bottleneck()
    step = TrainingStep(2 * passes, 2, optimizer)
    plan = every_other_channel(graph)
    before = integers_of(graph, step)
    emitted, after = check_bit_exact(graph, plan, step)
    assert any(not np.array_equal(before[name], after[name]) for name in after)
    x = random_images(graph, step, torch.float32).numpy()
    assert emitted.stray_writes(x, labels_for(graph, step)) == []


@pytest.mark.parametrize("name", around_tiles())
def test_sizes_around_the_tiles_are_bit_exact(name):
    """Whole weights and lists of channels; nothing is touched that is no operation's own."""
    graph = around_tiles()[name]
    step = TrainingStep(graph.batch)
    x = random_images(graph, step, torch.float32).numpy()
    for plan in (UpdatePlan.full(graph), every_other_channel(graph)):
        emitted, _ = check_bit_exact(graph, plan, step, count=1)
        assert emitted.stray_writes(x, labels_for(graph, step)) == []


def integers_of(graph, step):
    tensors = random_tensors(graph, torch.float32)
    x = random_images(graph, step, torch.float32)
    return integers(graph, arrays(tensors), quantized(graph, tensors, x))


@settings(max_examples=20)
@given(st.data())
def test_drawn_steps_are_bit_exact(data):
    graph = data.draw(graphs(simple=True))
    assume(graph.parameters)
    passes = data.draw(st.integers(1, 2))
    step = TrainingStep(
        graph.batch * passes,
        graph.batch,
        data.draw(st.sampled_from(NARROW_OPTIMIZERS)),
        data.draw(st.sampled_from(["immediate", "deferred"])),
    )
    check_bit_exact(graph, data.draw(plans(graph)), step)


SINGLES = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 2.0**-40
)


@given(SINGLES, SINGLES, SINGLES)
@example(1 + 2.0**-23, 1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23))  # just below half way
@example(1.0, 1 + 2.0**-23, 2.0**-24)  # just above
@example(1.0, 1.0, 2.0**-24)  # half way
@example(-(1 + 2.0**-23), -(1 + 2.0**-23), 2.0**-24 * (1 - 2.0**-23))
def test_a_fused_multiply_accumulate_is_rounded_once(total, a, b):
    exact = Fraction(total) + Fraction(a) * Fraction(b)
    found = fused_sum(*(np.array([v], np.float32) for v in (total, a, b)))[0]
    error = abs(Fraction(float(found)) - exact)
    for other in (
        np.nextafter(found, np.float32(-np.inf)),
        np.nextafter(found, np.float32(np.inf)),
    ):
        beside = abs(Fraction(float(other)) - exact)
        assert error < beside or (error == beside and not found.view(np.int32) & 1)


def test_rounding_in_double_precision_first_is_not_the_same():
    total, a, b = np.array(
        [[1 + 2.0**-23], [1 + 2.0**-23], [2.0**-24 * (1 - 2.0**-23)]], np.float32
    )
    twice = (total.astype(float) + a.astype(float) * b.astype(float)).astype(np.float32)
    assert fused_sum(total, a, b)[0] == total[0] != twice[0]


def test_macs_and_bytes_are_those_priced():
    graph = inverted_bottleneck()
    step = TrainingStep(2, bits=BITS)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    tensors = random_tensors(graph, torch.float32)
    x = random_images(graph, step, torch.float32)
    quantization = quantized(graph, tensors, x)
    emitted = Emitted(program, arrays(tensors), quantization=quantization, counting=True)
    counted = emitted.operation_macs(x.numpy(), labels_for(graph, step))
    assert counted == [op.unpadded_macs for op in program.operations]
    stored = integers(graph, arrays(tensors), quantization)
    updated = sum(stored[u.parameter.name].reshape(-1)[u.places].nbytes
                  for u in emitted.memory.updates)  # fmt: skip
    assert updated == sum(
        b.bytes for b in program.buffers if b.category is Category.UPDATED_WEIGHTS
    )


def test_eight_bits_are_close_to_floats():
    graph = inverted_bottleneck()
    step = TrainingStep(2, bits=BITS)
    tensors = random_tensors(graph, torch.float32)
    x = random_images(graph, step, torch.float32)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    emitted = Emitted(program, arrays(tensors), quantization=quantized(graph, tensors, x))
    wanted = evaluate(graph, tensors, x)[0].numpy()
    reach = float(np.abs(wanted).max())
    assert np.abs(emitted.predict(x.numpy()) - wanted).max() < 0.1 * reach


def test_saturated_outputs_pass_no_gradient():
    """What ReLU6 cuts off, and what is beyond the range, has mask bits of 0."""
    a = Affine(6 / 255, LOW)
    assert (a.bound(0.0), a.bound(6.0), a.bound(9.0), a.bound(-1.0)) == (LOW, HIGH, HIGH, LOW)
    with pytest.raises(InputError, match="scale 0 and zero 0"):
        Affine(0.0, 0)


def test_what_has_no_8_bit_kernel_is_named():
    g = GraphBuilder()
    g.add(Sigmoid(), (g.conv(g.input(1, 2, 4, 4), 3),))
    with pytest.raises(
        UnsupportedOperator, match=r"after layer 'convolution1'.*'sigmoid' has no 8-bit"
    ):
        quantize_ranges(g.graph(), {}, {})
    g = GraphBuilder()
    g.add(Mean((1,)), (g.conv(g.input(1, 2, 4, 4), 3),))
    with pytest.raises(UnsupportedOperator, match="a 'mean' of other dimensions"):
        quantize_ranges(g.graph(), {}, {})
    graph = inverted_bottleneck()
    weights = arrays(random_tensors(graph, torch.float32))
    program = compile_program(graph, UpdatePlan(), TrainingStep(2, bits=BITS))
    with pytest.raises(InputError, match="a step with 8-bit weights needs scales"):
        emit(program, weights)
    adam = TrainingStep(2, optimizer="adam", bits=BITS)
    tensors = random_tensors(graph, torch.float32)
    quantization = quantized(graph, tensors, random_images(graph, adam, torch.float32))
    with pytest.raises(InputError, match="'adam' has no C kernel for 8-bit weights"):
        emit(compile_program(graph, UpdatePlan(), adam), weights, quantization=quantization)


# The command.


def test_a_plan_of_the_devices_usual_bits_becomes_a_folder(tmp_path, capsys):
    plan, out = tmp_path / "plan.json", tmp_path / "firmware"
    arguments = ["plan", "--device", "stm32f746", "--resolution", "48", "--criterion", "l2_norm"]
    arguments += ["--loss", "cross_entropy"]
    assert main([*arguments, "--bias", "--out", str(plan)]) == 0
    capsys.readouterr()
    assert main(["export", str(plan), "--out", str(out), "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["sizes"]
    predicted = json.loads(plan.read_text())["predicted"]["memory"]
    assert sizes["arena_bytes"] == predicted["arena_bytes"]
    assert sizes["updated_weight_bytes"] == predicted["updated_weight_bytes"]
    assert "const int8_t costsim_weight_0" in (out / "costsim_weights.c").read_text()
    assert "8-bit" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "more", "status", "told"),
    [
        ("zoo:mobilenet_v3_like", (), 2, r"on stm32h743, a microcontroller: call '.*8-bit kernel"),
        ("zoo:mobilenet_v3_like", ("--bits", "32"), 0, None),
        ("mcunet-5fps", (), 0, None),
        ("mcunet-5fps", ("--bits", "8"), 0, "--bits 8: gradients and optimizer state stay at 32"),
        ("mcunet-5fps", ("--optimizer", "adam"), 0, "exported as C: optimizer 'adam' has no C"),
    ],
)
def test_a_plan_for_a_microcontroller_says_what_there_is_no_kernel_for(
    model, more, status, told, capsys
):
    arguments = ["plan", "--device", "stm32h743", "--model", model, "--resolution", "32"]
    arguments += ["--criterion", "l2_norm", "--memory", "1MiB", "--solver", "greedy", "--json"]
    arguments += ["--loss", "cross_entropy"]
    assert main([*arguments, *more]) == status
    captured = capsys.readouterr()
    if told is None:
        assert "kernel for" not in captured.err
        assert "exported" not in captured.err
    else:
        assert re.search(told, captured.err)
    assert (captured.out == "") is (status == 2)
