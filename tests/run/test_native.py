"""The native kernels: gradients against autograd, and the executor around them against torch's."""

import copy
import gc
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from channel_plans import channel_plans, every_nth_layer
from graphs import GraphBuilder, chain, plans, steps
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from operator_cases import CASES, case
from running import check_rounded_gradients, copies, mean_square, random_tensors, with_statistics
from settled import Unsettled, settled_batches
from whole_networks import BATCH, flat_cross_entropy, fresh, network, traced
from zoo import ZOO

import costsim
from costsim.base.errors import InputError, Note
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import (
    Add,
    BatchNorm,
    Clamp,
    HardSwish,
    LeakyReLU,
    ReLU,
    SiLU,
)
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import AXES, Category, compile_program
from costsim.ir.program.arena import plan_arena
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.networks import NETWORKS
from costsim.models.tracing.capture import capture
from costsim.run.execution.executor import Executor, LossNotFinite
from costsim.run.native import backend as chosen
from costsim.run.native.backend import make_executor, why_not_native
from costsim.run.native.executor import NativeExecutor, NoNativeKernels
from costsim.run.native.self_check import checking_graph, disagreement


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    """Built where there is a compiler, when the first test wants them."""
    if reason := why_not_native():
        pytest.skip(f"no native kernels here: {reason}")


def runs_natively(graph: LayerGraph) -> bool:
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(graph.batch, graph.batch))
    try:
        NativeExecutor(program, random_tensors(graph, torch.float32))
    except NoNativeKernels:
        return False
    return True


WITH_CHANNELS_LAST = [
    (name, alone)
    for name in CASES
    for alone in (True, False)
    if runs_natively(case(name, alone=alone))
]
"""Of the others no image can lie so: all of them are refused, which a test of its own sees."""


@pytest.mark.parametrize(("name", "alone"), WITH_CHANNELS_LAST)
def test_each_kind_agrees_with_autograd_by_kernels_or_by_torch_in_the_arena(name, alone):
    graph = case(name, alone=alone)
    step = TrainingStep(batch=graph.batch, micro_batch=graph.batch)
    for plan in channel_plans(graph):
        try:
            check_rounded_gradients(graph, plan, step, kind=NativeExecutor)
        except Unsettled:
            pytest.skip("rounding decides about every image")


WHOLE = [
    *ZOO,
    "mcunet-5fps",
    *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "mcunet-5fps"),
]
"""The built-in ones have the same operators, and the first kernels of all sizes."""


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_of_whole_networks(name):
    double, single = traced(name, torch.float64), traced(name, torch.float32)
    program = compile_program(double.graph, UpdatePlan.full(double.graph), TrainingStep(BATCH))
    try:
        NativeExecutor(program, single.tensors)
    except NoNativeKernels:
        pytest.skip("images cannot lie with channels last")
    for plan in (every_nth_layer(double.graph, 3), UpdatePlan.full(double.graph)):
        check_rounded_gradients(
            double.graph, plan, TrainingStep(BATCH), single.tensors, NativeExecutor
        )


ACTIVATIONS = (
    ReLU(), Clamp(0.0, 6.0, False), Clamp(-0.5, 1.0, True), HardSwish(), SiLU(), LeakyReLU(0.1)
)  # fmt: skip
"""The first three by kernels, the others by torch in the same arena."""


@st.composite
def networks(draw):
    """Images through convolutions of all sizes, with what kernels can be joined to and cannot."""
    g = GraphBuilder()
    side = draw(st.integers(4, 11))
    x = g.input(draw(st.integers(1, 3)), draw(st.integers(1, 4)), side, side)
    x = g.conv(x, draw(st.integers(1, 20)), 3, stride=draw(st.integers(1, 2)))
    layer = None
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            x = g.add(draw(st.sampled_from(ACTIVATIONS)), (x,))
        before, wide = x, g.shape(x)[1]
        kernel = draw(st.sampled_from([1, 3, 5, 7]))
        match draw(st.integers(0, 5)):
            case 0:
                x = g.conv(x, draw(st.integers(1, 40)), 1, bias=draw(st.booleans()))
            case 1:
                stride = draw(st.integers(1, 2))
                x = g.conv(x, wide, kernel, stride=stride, groups=wide, bias=draw(st.booleans()))
            case 2:
                x = g.conv(x, draw(st.integers(1, 12)), 3, stride=draw(st.integers(1, 2)))
            case 3:
                x = g.conv(g.add(draw(st.sampled_from(ACTIVATIONS)), (x,)), wide)
                x = g.add(Add(), draw(st.permutations((before, x))))
            case 4:
                x = g.add(BatchNorm(1e-5), (x,), (wide,), bias=True)
            case 5:  # one layer, called twice
                layer = g.conv(x, wide, layer=f"twice{len(g.calls)}")
                x = g.conv(g.relu(layer), wide, layer=g.calls[-2].layer)
    g.linear(g.pool(x), draw(st.integers(1, 9)), bias=draw(st.booleans()))
    return with_statistics(g.graph())


def check_drawn(data):
    graph = data.draw(networks())
    step = replace(data.draw(steps(graph)), bits=BitWidths(), optimizer="sgd")
    plan = data.draw(plans(graph))
    tensors = random_tensors(graph, torch.float32)
    try:
        check_rounded_gradients(graph, plan, step, tensors, NativeExecutor)
    except Unsettled:
        assume(False)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_drawn_networks_plans_and_steps(data):
    check_drawn(data)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_drawn_networks_plans_and_steps(data):
    check_drawn(data)


def test_what_is_drawn_runs_natively_at_least_half():
    found = []

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(networks())
    def look(graph):
        found.append(runs_natively(graph))

    look()
    assert sum(found) * 2 >= len(found)


def calm_tensors(graph: LayerGraph) -> dict[str, torch.Tensor]:
    """Random weights that keep values at their size."""
    generator = torch.Generator().manual_seed(0)
    return {
        p.name: torch.randn(p.shape, generator=generator) / (p.size // p.shape[0]) ** 0.5
        for p in graph.parameters
    }


OPTIMIZERS = ("sgd", "momentum", "adam")


STEPS = list(product(OPTIMIZERS, ["immediate", "deferred"], [1, 2], [1, 3]))
"""Of each optimizer, update and number of passes all channels or every third; the other slowly."""


@pytest.mark.parametrize(
    ("optimizer", "update", "passes", "stride"),
    [
        one if i.bit_count() % 2 else pytest.param(*one, marks=pytest.mark.slow)
        for i, one in enumerate(STEPS)
    ],
)
def test_training_is_torchs(optimizer, update, passes, stride):
    graph = checking_graph()
    plan = UpdatePlan(
        tuple(
            ChannelSubset(name, AXES[i % 4 == 3], tuple(range(0, count, stride)))
            for i, name in enumerate(graph.layers)
            if (count := graph.selectable_channels(name, AXES[i % 4 == 3]))
        ),
        frozenset(list(graph.layers)[::2]),
    )
    step = TrainingStep(2 * passes, 2, optimizer, update)
    program = compile_program(graph, plan, step)
    tensors = calm_tensors(graph)
    options: dict[str, Any] = {"learning_rate": 0.01, "eps": 1e-3, "loss": flat_cross_entropy}
    labels = [torch.arange(2 * passes) + i for i in range(4)]
    batches = settled_batches(program, tensors, labels, **options)
    by_torch, native = copies(tensors), copies(tensors)
    one, other = Executor(program, by_torch, **options), NativeExecutor(program, native, **options)
    for x, wanted in batches:
        assert torch.allclose(one.step(x, wanted), other.step(x, wanted), rtol=1e-5)
    for name, tensor in tensors.items():
        change = max(float((by_torch[name] - tensor).abs().max()), 1e-3)
        assert (by_torch[name] - native[name]).abs().max() <= 1e-3 * change, name


def test_the_arena_is_the_programs_and_what_lies_elsewhere_is_not_in_it():
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2, optimizer="adam"))
    executor = NativeExecutor(program, random_tensors(graph, torch.float32))
    elsewhere = (Category.UPDATED_WEIGHTS, Category.OPTIMIZER)
    assert executor.arena_bytes <= plan_arena(program, elsewhere).size_bytes
    state = executor.begin()
    arena = state.arena
    again = executor.begin()
    assert again.arena is not arena
    del state, again
    gc.collect()
    states = [executor.begin() for _ in range(3)]
    assert arena in [state.arena for state in states]
    assert len({id(state.arena) for state in states}) == 3


def test_an_observer_sees_the_buffers_that_torch_computes():
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2))
    tensors = random_tensors(graph, torch.float32)
    images = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    seen = []
    for kind in (Executor, NativeExecutor):
        found: dict[int, dict[int, Any]] = {}

        def observe(_, position, buffers, found=found):
            found[position] = {i: (tuple(t.shape), t.clone()) for i, t in buffers.items()}

        executor = kind(program, copies(tensors), loss=flat_cross_entropy, observer=observe)
        executor.step(images, torch.arange(2))
        seen.append(found)
    one, other = seen
    assert one.keys() == other.keys()
    for position in one:
        assert one[position].keys() == other[position].keys()
        for index, (shape, values) in one[position].items():
            assert other[position][index][0] == shape
            if values.dtype == torch.float32:
                scale = max(1.0, float(values.abs().max()))
                assert (values - other[position][index][1]).abs().max() <= 1e-4 * scale


@pytest.mark.parametrize("place", ["image", "stem.weight", "1.depthwise.bias", "head.weight"])
def test_nan_is_never_swallowed(place):
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2))
    tensors = random_tensors(graph, torch.float32)
    images = torch.zeros(2, 3, 13, 13)
    where = images if place == "image" else tensors[place]
    where.view(-1)[5] = torch.nan
    executor = NativeExecutor(program, tensors, loss=flat_cross_entropy)
    with pytest.raises(LossNotFinite):
        executor.step(images, torch.arange(2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_stays_so_behind_masks(bad):
    graph = checking_graph()
    step = TrainingStep(2, update="deferred")
    program = compile_program(graph, UpdatePlan.full(graph), step)
    executor = NativeExecutor(program, random_tensors(graph, torch.float32))
    state = executor.begin()
    output = executor.forward(state, torch.randn(2, 3, 13, 13))
    executor.backward(state, torch.full_like(output, bad))
    gradients = executor.gradients(state)
    assert all(not gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("past_autograd", [False, True])
def test_weights_that_change_are_packed_again(past_autograd):
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan(), TrainingStep(2))
    tensors = random_tensors(graph, torch.float32)
    executor = NativeExecutor(program, tensors)
    images = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    for name in tensors:
        written = tensors[name].data if past_autograd else tensors[name]
        written.copy_(torch.randn(tensors[name].shape, generator=generator) * 0.2)
        fresh_one = NativeExecutor(program, tensors)
        one, other = (e.forward(e.begin(), images) for e in (executor, fresh_one))
        assert torch.equal(one, other), name


def test_weights_made_in_inference_mode_and_of_any_strides_are_read():
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan(), TrainingStep(2))
    tensors = random_tensors(graph, torch.float32)
    images = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    executor = NativeExecutor(program, tensors)
    expected = executor.forward(executor.begin(), images)
    with torch.inference_mode():
        turned = {
            name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t.clone()
            for name, t in tensors.items()
        }
    executor = NativeExecutor(program, turned)
    assert torch.equal(executor.forward(executor.begin(), images), expected)


def test_a_weight_of_other_strides_is_trained_too():
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2))
    tensors = calm_tensors(graph)
    turned = {
        name: t.clone(memory_format=torch.channels_last if t.ndim == 4 else torch.preserve_format)
        for name, t in tensors.items()
    }
    images = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    for own in (tensors, turned):
        executor = NativeExecutor(program, own, loss=flat_cross_entropy)
        for _ in range(2):
            executor.step(images, torch.arange(2))
    for name in tensors:
        assert torch.allclose(tensors[name], turned[name], rtol=1e-4, atol=1e-5), name


def test_what_cannot_run_natively_is_refused_in_one_line():
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    with pytest.raises(NoNativeKernels, match=r"are for float32 on the CPU, not torch\.float64"):
        NativeExecutor(program, random_tensors(graph))
    executor = NativeExecutor(program, random_tensors(graph, torch.float32))
    state = executor.begin()
    with pytest.raises(InputError, match="the input is"):
        executor.load(state, torch.zeros(1, 1))


# Behind the doors.


def test_the_kernels_of_this_machine_agree_with_torch():
    assert disagreement() is None


def test_torch_runs_what_kernels_cannot_and_that_is_said_once():
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    chosen._say.cache_clear()
    with pytest.warns(Note, match="backend native: .* float32 .*; torch runs this instead") as said:
        made = [make_executor(program, random_tensors(graph), "native") for _ in range(2)]
    assert [type(one) for one in made] == [Executor, Executor]
    assert len(said) == 1
    single = make_executor(program, random_tensors(graph, torch.float32), "native")
    assert type(single) is NativeExecutor
    with pytest.raises(InputError, match="backend 'tpu': allowed are torch, native"):
        make_executor(program, random_tensors(graph), "tpu")  # type: ignore[arg-type]


def test_kernels_that_disagree_are_not_used(monkeypatch):
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    chosen._say.cache_clear()
    why_not_native.cache_clear()
    monkeypatch.setattr("costsim.run.native.self_check._difference", lambda _seed: float("nan"))
    try:
        with pytest.warns(Note, match="do not compute what torch does"):
            made = make_executor(program, random_tensors(graph, torch.float32), "native")
    finally:
        why_not_native.cache_clear()
    assert type(made) is Executor


def test_a_sparse_module_trains_as_by_torch():
    model, graph, tensors = fresh("mcunet-5fps", torch.float32)
    plan = every_nth_layer(graph, 4)
    step = TrainingStep(BATCH, update="deferred")
    program = compile_program(graph, plan, step)
    labels = [torch.arange(BATCH) + i for i in range(2)]
    options: dict[str, Any] = {"learning_rate": 0.01, "loss": flat_cross_entropy}
    batches = settled_batches(program, tensors, labels, **options)
    example = torch.zeros(BATCH, 3, 32, 32)
    modules = [
        costsim.sparsify(copy.deepcopy(model), plan, example, backend=backend)
        for backend in ("torch", "native")
    ]
    assert type(modules[1]._pass_for(example.shape).executor) is NativeExecutor
    for module in modules:
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        for x, wanted in batches:
            optimizer.zero_grad()
            flat_cross_entropy(module(x), wanted).backward()
            optimizer.step()
    one, other = (module.sparse_state_dict() for module in modules)
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6), name


def test_two_forwards_and_their_backwards_in_any_order():
    model, graph, _ = fresh("mcunet-5fps", torch.float32)
    example = torch.zeros(BATCH, 3, 32, 32)
    module = costsim.sparsify(model, every_nth_layer(graph, 4), example, backend="native")
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(example.shape, generator=generator) for _ in range(2))

    def gradients(order):
        module.zero_grad()
        outputs = {name: module(x).sum() for name, x in (("a", first), ("b", second))}
        for name in order:
            outputs[name].backward()
        return [p.grad.clone() for p in module.parameters()]

    for one, other in zip(gradients("ab"), gradients("ba"), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    kept = module(first)
    again = module(second)
    assert not np.shares_memory(kept.detach().numpy(), again.detach().numpy())


def test_a_long_run_takes_no_more_memory():
    graph = checking_graph()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2))
    executor = NativeExecutor(program, random_tensors(graph, torch.float32), learning_rate=1e-6,
                              loss=mean_square)  # fmt: skip
    images, targets = torch.zeros(2, 3, 13, 13), torch.zeros(2, 10)
    for _ in range(200):
        executor.step(images, targets)
    assert len(executor._joined.spare) == 1
    assert len(executor._joined.spare[0]._views) < 2 * len(program.operations)


def test_bits_of_the_program_do_not_matter_here():
    """A program priced in 8 bits is run in the type of its tensors, as by torch."""
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(bits=BitWidths(8, 8, 8)))
    with pytest.raises(NoNativeKernels, match="32 bits"):
        NativeExecutor(program, random_tensors(graph, torch.float32))


@pytest.mark.parametrize("name", ["mcunet-5fps", "checking"])
def test_results_are_the_same_whatever_the_number_of_threads(name):
    """To the last bit: parts of an operation differ in what they compute and never in how."""
    if name == "checking":
        graph = checking_graph(batch=24)
        tensors = calm_tensors(graph)
    else:
        traced_network = capture(network(name, torch.float32), torch.zeros(16, 3, 64, 64))
        graph, tensors = traced_network.graph, dict(traced_network.tensors)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(graph.batch))
    shape = graph[graph.input].shape
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(graph.batch) % 5
    after = []
    for count in (1, 2, 3, 7):
        own = copies(tensors)
        executor = NativeExecutor(program, own, learning_rate=0.01)
        executor.threads = count
        for _ in range(2):
            executor.step(images, labels)
        after.append(own)
    for own in after[1:]:
        assert all(torch.equal(own[name], after[0][name]) for name in own)


def test_kernels_in_threads_of_python_and_in_a_forked_process():
    graph = checking_graph(batch=24)
    program = compile_program(graph, UpdatePlan(), TrainingStep(24))
    tensors = calm_tensors(graph)
    images = torch.randn(24, 3, 13, 13, generator=torch.Generator().manual_seed(1))

    def answer():
        executor = NativeExecutor(program, tensors)
        executor.threads = 3
        return [executor.forward(executor.begin(), images) for _ in range(20)]

    expected = answer()[0]
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: answer(), range(3)):
            assert all(torch.equal(one, expected) for one in found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        child = os.fork()
    if not child:
        os._exit(0 if torch.equal(answer()[0], expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
