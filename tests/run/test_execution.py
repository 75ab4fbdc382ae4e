"""The executor against autograd, against `torch.optim`, and against the program it runs."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import GraphBuilder, chain, graphs, plans, steps
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import (
    check_gradients,
    check_measured,
    check_rounded_gradients,
    copies,
    mean_square,
    random_images,
    random_tensors,
    targets_for,
    with_statistics,
)
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError
from costsim.ir.operators import Add, Clamp, HardSigmoid, LeakyReLU, ReLU
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import OPTIMIZER_STATES, BitWidths, TrainingStep
from costsim.run.execution.executor import Executor, LossNotFinite
from costsim.run.execution.forward import evaluate
from costsim.run.execution.masks import PASSES, PIECE, SLOPES, mask_of, multiply_, pack, unpack
from costsim.run.execution.selection import Selection


def check_drawn_gradients(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    drawn = data.draw(steps(graph))
    step = TrainingStep(drawn.batch, drawn.micro_batch, "sgd", drawn.update)
    plan = data.draw(plans(graph))
    check_gradients(graph, plan, step)
    check_rounded_gradients(graph, plan, step)


@settings(max_examples=80)
@given(st.data())
def test_gradients_of_selected_channels_are_autograds(data):
    check_drawn_gradients(data)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.data())
def test_gradients_of_many_selected_channels_are_autograds(data):
    check_drawn_gradients(data)


@pytest.mark.parametrize("update", ["immediate", "deferred"])
def test_what_two_branches_read_is_overwritten_by_neither(update):
    """An activation that a branch reads later, and a gradient that a sum hands to both."""
    g = GraphBuilder()
    first = g.conv(g.input(1, 2, 4, 4), 3)
    x = g.add(Add(), (g.relu(first), g.conv(first, 3)))
    g.pool(g.add(Add(), (g.relu(g.conv(x, 3)), g.add(HardSigmoid(), (g.conv(x, 3),)))))
    graph = g.graph()
    plan = UpdatePlan((ChannelSubset(first, "output", (0, 2)),))  # nothing else is kept whole
    check_gradients(graph, plan, TrainingStep(update=update))


@settings(max_examples=100)
@given(st.data())
def test_live_bytes_and_macs_are_the_programs_at_every_operation(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    step = replace(data.draw(steps(graph)), bits=BitWidths())
    check_measured(graph, data.draw(plans(graph)), step)


@pytest.mark.parametrize("optimizer", OPTIMIZER_STATES)
@pytest.mark.parametrize("update", ["immediate", "deferred"])
@pytest.mark.parametrize("passes", [1, 2])
def test_full_training_is_torch_optims(optimizer, update, passes):
    graph = chain(batch=2)
    tensors = random_tensors(graph)
    own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    step = TrainingStep(2 * passes, 2, optimizer, update)
    x, targets = random_images(graph, step), targets_for(graph, step)
    executor = Executor(
        compile_program(graph, UpdatePlan.full(graph), step),
        tensors,
        learning_rate=0.03,
        loss=mean_square,
    )
    optim = {
        "sgd": lambda: torch.optim.SGD(own.values(), 0.03),
        "momentum": lambda: torch.optim.SGD(own.values(), 0.03, momentum=0.9),
        "adam": lambda: torch.optim.Adam(own.values(), 0.03),
    }[optimizer]()
    for _ in range(20):
        optim.zero_grad()
        outputs = [evaluate(graph, own, part)[0] for part in x.chunk(passes)]
        loss = mean_square(torch.cat(outputs), targets)
        loss.backward()
        optim.step()
        assert executor.step(x, targets).item() == pytest.approx(loss.item(), rel=1e-10)
    for name, tensor in tensors.items():
        assert torch.allclose(tensor, own[name], rtol=1e-9, atol=1e-12), name


def test_a_loss_may_be_a_function_of_the_output_alone():
    graph = chain()
    plan = UpdatePlan.full(graph)
    program = compile_program(graph, plan, TrainingStep())
    results = []
    for labels, loss in (
        (torch.ones(1, 5), mean_square),
        (lambda y: (y - 1).square().mean(), None),
    ):
        tensors = random_tensors(graph)
        given: dict[str, Any] = {"loss": loss} if loss else {}
        executor = Executor(program, tensors, learning_rate=0.1, **given)
        executor.step(random_images(graph, TrainingStep()), labels)
        results.append(tensors)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_forward_and_backward_can_be_driven_from_outside():
    graph = chain(batch=2)
    step = TrainingStep(2, update="deferred")
    plan = UpdatePlan.full(graph)
    x, targets = random_images(graph, step), targets_for(graph, step)
    whole, parts = random_tensors(graph), random_tensors(graph)
    program = compile_program(graph, plan, step)
    Executor(program, whole, learning_rate=0.1, loss=mean_square).step(x, targets)

    executor = Executor(program, parts, learning_rate=0.1)
    state = executor.begin()
    output = executor.forward(state, x).clone().requires_grad_()
    mean_square(output, targets).backward()
    executor.backward(state, output.grad)
    gradients = executor.gradients(state)
    assert {atom: g.shape for atom, g in gradients.items()} == {
        atom: s.shape for atom, s in executor.selections.items()
    }
    executor.update(state)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_memory_does_not_grow(optimizer):
    graph = chain(batch=2)
    step = TrainingStep(4, 2, optimizer)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    executor = Executor(program, random_tensors(graph), learning_rate=1e-3, loss=mean_square)
    x, targets = random_images(graph, step), targets_for(graph, step)

    def tensors_alive() -> tuple[int, int]:
        gc.collect()
        sizes = [thing.nbytes for thing in gc.get_objects() if type(thing) is Tensor]
        return len(sizes), sum(sizes)

    for _ in range(10):
        executor.step(x, targets)
    before = tensors_alive()
    for _ in range(100):
        executor.step(x, targets)
    assert tensors_alive() == before


def test_a_loss_that_is_not_finite_stops_before_the_update():
    graph = chain()
    tensors = random_tensors(graph)
    before = copies(tensors)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    executor = Executor(program, tensors, loss=mean_square)
    with pytest.raises(LossNotFinite, match="nan at step 1"):
        executor.step(torch.full((1, 3, 4, 4), float("nan")).double(), torch.ones(1, 5))
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_bad_input_is_named():
    graph = chain()
    tensors = random_tensors(graph)
    name = graph.parameters[0].name
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    with pytest.raises(InputError, match=f"{name}.*missing"):
        Executor(program, {key: t for key, t in tensors.items() if key != name})
    with pytest.raises(InputError, match=f"{name}.*is \\(7,\\).*program is for"):
        Executor(program, {**tensors, name: torch.zeros(7).double()})
    with pytest.raises(InputError, match="differ in dtype"):
        Executor(program, {**tensors, name: tensors[name].float()})
    executor = Executor(program, tensors)
    with pytest.raises(InputError, match="2 samples given; the step is for 1"):
        executor.step(torch.zeros(2, 3, 4, 4).double(), torch.zeros(2).long())
    with pytest.raises(InputError, match=r"float32.*float64"):
        executor.step(torch.zeros(1, 3, 4, 4), torch.zeros(1).long())
    with pytest.raises(InputError, match=r"\(1, 3, 5, 5\)"):
        executor.step(torch.zeros(1, 3, 5, 5).double(), torch.zeros(1).long())


def test_updates_of_the_same_memory_under_two_names_are_refused():
    g = GraphBuilder()
    x = g.input(2, 4)
    g.linear(g.linear(x, 4, bias=False), 4, bias=False)
    graph = g.graph()
    first, second = (parameter.name for parameter in graph.parameters)
    weight = torch.eye(4)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2))
    with pytest.raises(InputError, match="share memory"):
        Executor(program, {first: weight, second: weight.t()})


@pytest.mark.parametrize("count", [1, 8, 13, PIECE, PIECE + 3, 2 * PIECE + 8])
@pytest.mark.parametrize("otherwise", [0.0, 0.25])
def test_masks_are_the_same_by_numpy_and_by_torch(count, otherwise):
    x = torch.randn(count)
    expected = torch.where(x > 0, 1.0, otherwise)
    packed = mask_of(PASSES[ReLU()], x)
    assert packed.numel() == -(-count // 8)
    assert torch.equal(packed, pack(x > 0))
    assert torch.equal(unpack(packed, count), x > 0)
    assert torch.equal(mask_of(PASSES[ReLU()], x.bfloat16()), packed)
    assert torch.equal(multiply_(torch.ones(count), packed, (otherwise, 1.0)), expected)
    brain = multiply_(torch.ones(count, dtype=torch.bfloat16), packed, (otherwise, 1.0))
    assert torch.equal(brain.float(), expected)


JUMPS = {
    "relu": (ReLU(), F.relu, (0.0,)),
    "leaky_relu": (LeakyReLU(0.25), lambda x: F.leaky_relu(x, 0.25), (0.0,)),
    "relu6": (Clamp(0.0, 6.0, False), F.relu6, (0.0, 6.0)),
    "hard_tanh": (Clamp(-1.0, 1.0, False), F.hardtanh, (-1.0, 1.0)),
    "clamp": (Clamp(-1.0, 1.0, True), lambda x: x.clamp(-1, 1), (-1.0, 1.0)),
    "hard_sigmoid": (HardSigmoid(), F.hardsigmoid, (-3.0, 3.0)),
}


def test_every_masked_kind_has_its_jumps():
    assert {operator.kind for operator, *_ in JUMPS.values()} == PASSES.keys()


@pytest.mark.parametrize(("operator", "function", "jumps"), JUMPS.values(), ids=JUMPS)
def test_at_a_jump_a_gradient_is_passed_as_by_torch(operator, function, jumps):
    """Where drawn numbers do not come: kinds differ there, and zeros are frequent in networks."""
    x = torch.tensor([near for jump in jumps for near in (jump - 1e-3, jump, jump + 1e-3)])
    function(x.requires_grad_()).sum().backward()
    packed = mask_of(PASSES[operator], x.detach())
    assert torch.equal(multiply_(torch.ones(len(x)), packed, SLOPES[operator]()), x.grad)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("channels", [(0, 1, 2, 3), (1, 2), (0, 3)])
def test_a_selection_is_read_written_and_added_to_alike(groups, axis, channels):
    inputs = 4 // groups
    selection = Selection((4, inputs, 3), axis, channels, groups)
    weight = torch.randn(4, inputs, 3)
    before = weight.clone()
    read = selection.read(weight).clone()
    assert read.shape == selection.shape
    selection.adder(weight)(torch.ones(selection.shape), 0.5)
    assert torch.equal(selection.read(weight), read + 0.5)
    assert int((weight != before).sum()) == read.numel()
    selection.write(weight, read)
    assert torch.equal(weight, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", OPTIMIZER_STATES)
def test_a_step_on_a_gpu_is_the_step_on_the_cpu(optimizer):
    graph, step = chain(batch=4), TrainingStep(4, 2, optimizer)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    start, after = random_tensors(graph), []
    for device in ("cpu", "cuda"):
        tensors = {name: tensor.to(device, copy=True) for name, tensor in start.items()}
        x, targets = (f(graph, step).to(device) for f in (random_images, targets_for))
        Executor(program, tensors, loss=mean_square).step(x, targets)
        after.append({name: tensor.cpu() for name, tensor in tensors.items()})
    torch.testing.assert_close(*after, rtol=1e-8, atol=1e-10)


def test_a_callers_images_are_let_go_as_the_program_says():
    """Of a batch that nobody else holds, nothing is left after its last reader."""
    graph, step = chain(batch=2), TrainingStep(2)
    program = compile_program(graph, UpdatePlan((), frozenset(graph.layers)), step)
    death = next(b.death for b in program.buffers if b.name == graph.input)
    seen: dict[int, bool] = {}

    def observe(_operation, position, _buffers):
        seen[position] = reference() is not None

    executor = Executor(program, random_tensors(graph), loss=mean_square, observer=observe)
    array = random_images(graph, step).numpy().copy()
    reference, batch = weakref.ref(array), [torch.from_numpy(array)]
    del array  # the tensor alone keeps it
    executor.step(batch.pop(), targets_for(graph, step))
    assert seen == {position: position <= death for position in range(len(program.operations))}
    assert not all(seen.values())


def test_updates_count_the_version_of_what_they_write():
    """Autograd must see that a weight it saved has changed."""
    graph, step = chain(batch=2), TrainingStep(2)
    tensors = random_tensors(graph)
    executor = Executor(
        compile_program(graph, UpdatePlan.full(graph), step), tensors, loss=mean_square
    )
    before = {name: tensor._version for name, tensor in tensors.items()}
    executor.step(random_images(graph, step), targets_for(graph, step))
    updated = {id(executor.parameter(atom)) for atom in executor.selections}
    for name, tensor in tensors.items():
        assert (tensor._version > before[name]) == (id(tensor) in updated), name
