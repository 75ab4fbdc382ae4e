"""The sparse module against dense training, and against what PyTorch does to any module."""

import copy
import pickle
import random
import subprocess
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from by_default import by_default
from costsim.solvers.greedy import Greedy
from running import live_bytes
from settled import settled_images
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from zoo import WITH_VIEWS, ZOO, tiny

import costsim
from costsim.base.errors import InputError
from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Convolution
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import AXES, Direction
from costsim.ir.step import TrainingStep
from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import capture, trace
from costsim.planning import PlanRequest, make_plan
from costsim.run.execution.executor import Executor
from costsim.run.sparse import SparseModule, sparsify
from costsim.run.sparse.compact import path_of
from costsim.solving.planfile import PlanFile, write_plan

BATCH = 4
CLASSES = 10

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.003, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.003, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001),
}


def model_of(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network of the zoo with statistics and affine weights that are not the initial ones."""
    torch.manual_seed(0)
    model = {**ZOO, **WITH_VIEWS}[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.to(dtype)


@cache
def graph_of(name: str) -> LayerGraph:
    """The layer graph of a network for `BATCH` images."""
    return trace(model_of(name), images())


def images(count: int = BATCH, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)


def labels(count: int = BATCH) -> Tensor:
    return torch.arange(count) % CLASSES


def some(graph: LayerGraph, seed: int = 0, last: int | None = None) -> UpdatePlan:
    """Some channels along either axis, and some biases, of most of the last layers."""
    draw = random.Random(seed)
    subsets, biases = [], set()
    for name in list(graph.layers)[-last if last else 0 :]:
        axes = [axis for axis in AXES if graph.selectable_channels(name, axis)]
        if axes and draw.random() < 0.7:
            axis = draw.choice(axes)
            count = graph.selectable_channels(name, axis)
            channels = draw.sample(range(count), draw.randint(1, count))
            subsets.append(ChannelSubset(name, axis, tuple(channels)))
        if graph.layers[name].bias and draw.random() < 0.5:
            biases.add(name)
    return UpdatePlan(tuple(subsets), frozenset(biases))


def as_torch_has_it(name: str, tensor: Tensor) -> Tensor:
    """A view of `tensor` with the first two dimensions exchanged where a name says it is one."""
    return tensor.transpose(0, 1) if name.endswith(".T") else tensor


def masks(graph: LayerGraph, plan: UpdatePlan, model: nn.Module) -> dict[str, Tensor]:
    """For each parameter of `model`, true where `plan` updates it."""
    found = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    for subset in plan.subsets:
        layer = graph.layers[subset.layer]
        mask = as_torch_has_it(layer.weight.name, found[layer.weight.name.removesuffix(".T")])
        operator = graph[layer.calls[0]].operator
        groups = operator.groups if isinstance(operator, Convolution) else 1
        for channel in subset.channels:
            if subset.axis == "output":
                mask[channel] = True
            else:
                group, row = divmod(channel, mask.shape[1])
                a_group = mask.shape[0] // groups
                mask[group * a_group : (group + 1) * a_group, row] = True
    for name in plan.biases:
        found[graph.layers[name].bias.name][:] = True
    return found


def sparse_and_dense(
    name: str, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[SparseModule, nn.Module, dict[str, Tensor]]:
    """A sparse module, an independent dense copy of its model, and what the plan selects of it."""
    model = model_of(name, dtype)
    graph = graph_of(name)
    plan = some(graph, seed)
    dense = copy.deepcopy(model)
    return sparsify(model, plan, images(dtype=dtype)), dense, masks(graph, plan, dense)


def dense_gradients(net: SparseModule) -> dict[str, Tensor]:
    """The gradients of the compact parameters, put where they belong in the model."""
    graph, executor = net.program().graph, net._pass_for(net.input_shape).executor
    parameters = dict(net.named_parameters())
    found = {}
    for (kind, layer), selection in executor.selections.items():
        owner = graph.layers[layer].bias if kind == "bias" else graph.layers[layer].weight
        whole = torch.zeros(owner.shape, dtype=torch.float64)
        selection.write(whole, parameters[f"selected.{path_of(owner.name)}"].grad.double())
        found[owner.name.removesuffix(".T")] = as_torch_has_it(owner.name, whole)
    return found


# Gradients and training.


def both_gradients(
    name: str, dtype: torch.dtype, x: Tensor, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """What a sparse module finds, what dense autograd does, and what the plan selects of it."""
    net, dense, selected = sparse_and_dense(name, dtype, seed=seed)
    loss, expected_loss = (F.cross_entropy(m(x.to(dtype)), labels()) for m in (net, dense))
    loss.backward()
    expected_loss.backward()
    found = {"loss": loss.detach(), **dense_gradients(net)}
    expected = {"loss": expected_loss.detach()}
    for parameter, tensor in dense.named_parameters():
        expected[parameter] = torch.where(selected[parameter], tensor.grad, 0).double()
        found.setdefault(parameter, torch.zeros_like(tensor, dtype=torch.float64))
    return found, expected, selected


def largest(gradients: dict[str, Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in gradients.values())


@pytest.mark.parametrize("name", [*ZOO, *WITH_VIEWS])
def test_gradients_are_those_of_dense_autograd_where_the_plan_selects(name):
    found, expected, _ = both_gradients(name, torch.float64, images(), seed=0)
    for parameter, wanted in expected.items():
        # Shifts before a norm have gradients of rounding errors alone.
        allowed = 1e-12 * wanted.abs().max() + 1e-14 * largest(expected)
        assert (found[parameter] - wanted).abs().max() <= allowed, parameter


@pytest.mark.parametrize("name", by_default(ZOO, ("tiny", "classic", "small_vit")))
def test_rounded_gradients_are_as_near_as_those_of_dense_autograd(name):
    """To float64's, on images of which rounding decides nothing; ten times as far is allowed."""
    network = capture(model_of(name, torch.float32), images(dtype=torch.float32))
    x = settled_images(network.graph, network.tensors, TrainingStep(BATCH))
    _, exact, _ = both_gradients(name, torch.float64, x, seed=1)
    found, usual, _ = both_gradients(name, torch.float32, x, seed=1)
    for parameter, wanted in exact.items():
        rounding = (usual[parameter] - wanted).abs().max()
        allowed = 10 * rounding + 1e-5 * wanted.abs().max() + 1e-6 * largest(exact)
        assert (found[parameter] - wanted).abs().max() <= allowed, parameter


@pytest.mark.parametrize(
    "name",
    [
        name if name == "mcunet-5fps" else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_gradients_of_a_built_in_network(name):
    model = load_model(name, resolution=32).module
    x = images(dtype=torch.float32)
    graph = architecture_graph(NETWORKS[name], batch=BATCH, resolution=32)
    plan = some(graph, last=12)
    dense, net = copy.deepcopy(model), sparsify(model, plan, x)
    selected = masks(graph, plan, dense)
    target = torch.randn(dense(x).shape, generator=torch.Generator().manual_seed(3))
    for module in (net, dense):
        F.mse_loss(module(x), target).backward()
    found = dense_gradients(net)
    for parameter, tensor in dense.named_parameters():
        expected = torch.where(selected[parameter], tensor.grad, 0)
        error = (found.get(parameter, torch.zeros(())) - expected).abs().max()
        assert error <= 1e-4 * max(float(expected.abs().max()), 1e-6), parameter


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        *((optimizer, "tiny") for optimizer in OPTIMIZERS),
        ("adamw", "small_vit"),
        pytest.param("momentum", "resnet18", marks=pytest.mark.slow),
        pytest.param("adam", "mobilenet_v3_like", marks=pytest.mark.slow),
    ],
)
def test_training_is_dense_training_with_everything_else_held_still(name, optimizer):
    net, dense, selected = sparse_and_dense(name)
    original = {n: t.clone() for n, t in dense.state_dict().items()}
    sparse_step = OPTIMIZERS[optimizer](net.parameters())
    dense_step = OPTIMIZERS[optimizer](dense.parameters())
    curves: tuple[list[Any], list[Any]] = [], []
    for number in range(20):
        x, y = images(seed=number), labels()
        for module, step, curve in zip(
            (net, dense), (sparse_step, dense_step), curves, strict=True
        ):
            step.zero_grad()
            loss = F.cross_entropy(module(x), y)
            loss.backward()
            if module is dense:
                for parameter, tensor in dense.named_parameters():
                    tensor.grad.mul_(selected[parameter])
            step.step()
            curve.append(loss.item())
        with torch.no_grad():  # what decay moved
            for parameter, tensor in dense.named_parameters():
                tensor.copy_(torch.where(selected[parameter], tensor, original[parameter]))
    assert curves[0] == pytest.approx(curves[1], rel=1e-8)
    assert len(set(curves[0])) == 20
    trained, expected = net.state_dict(), dense.state_dict()
    assert trained.keys() == expected.keys()
    for key, tensor in trained.items():
        assert torch.allclose(tensor, expected[key], rtol=1e-6, atol=1e-9), key
        still = ~selected.get(key, torch.zeros(tensor.shape, dtype=torch.bool))
        assert torch.equal(tensor[still], original[key][still]), key
    state = [t for s in sparse_step.state.values() for t in s.values() if torch.is_tensor(t)]
    own = sum(parameter.numel() for parameter in net.parameters())
    assert own == sum(int(mask.sum()) for mask in selected.values())
    assert sum(t.numel() for t in state if t.ndim) in (0, own, 2 * own)


def test_every_parameter_is_named_as_in_the_model():
    net, dense, _ = sparse_and_dense("small_vit")
    names = [name for name, _ in net.named_parameters()]
    assert {name.removeprefix("selected.") for name in names} <= dict(
        dense.named_parameters()
    ).keys()
    assert all(name.startswith("selected.") for name in names)
    assert list(net.buffers()) == []


def test_accumulated_gradients_are_those_of_the_large_batch():
    net, _, _ = sparse_and_dense("tiny")
    x, y = images(8), labels(8)
    F.cross_entropy(net(x), y).backward()
    whole = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    for part in (slice(0, 3), slice(3, 6), slice(6, 8)):  # the last is smaller
        (F.cross_entropy(net(x[part]), y[part], reduction="sum") / 8).backward()
    for parameter, expected in zip(net.parameters(), whole, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-12)


def test_several_forwards_may_wait_for_one_backward():
    net, dense, selected = sparse_and_dense("tiny")
    first, second = images(seed=1), images(seed=2)
    for module in (net, dense):
        (module(first) * module(second).softmax(-1)).sum().backward()
    found = dense_gradients(net)
    for parameter, tensor in dense.named_parameters():
        expected = torch.where(selected[parameter], tensor.grad, 0)
        if parameter in found:
            assert torch.allclose(found[parameter], expected, rtol=1e-9, atol=1e-12)


class Products(nn.Module):
    """Weights that are multiplied from the right, or cut up, are views in a layer graph."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.w = nn.Parameter(torch.randn(3 * 32 * 32, 8) / 50)
        self.v = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.flat(x) @ self.w)
        return F.linear(y, self.v[:2]) * F.linear(y, self.v[2:4])


def test_parameters_that_the_graph_sees_through_views():
    torch.manual_seed(0)
    model = Products().double().eval()
    dense = copy.deepcopy(model)
    graph = trace(model, images())
    plan = UpdatePlan(tuple(ChannelSubset(name, "output", (1,)) for name in graph.layers))
    net = sparsify(model, plan, images())
    assert len(plan.subsets) == 3
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    for module in (net, dense):
        module(images()).square().sum().backward()
    step.step()
    expected = copy.deepcopy(dense.state_dict())
    expected["w"][:, 1] -= 0.1 * dense.w.grad[:, 1]
    expected["v"][[1, 3]] -= 0.1 * dense.v.grad[[1, 3]]
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensor, expected[name], rtol=1e-12, atol=1e-12), name
        still = expected[name] == dense.get_parameter(name)
        assert torch.equal(tensor[still], expected[name][still]), name


def test_a_part_of_a_larger_model_trains_and_is_saved_with_it():
    net, dense, _ = sparse_and_dense("tiny")
    whole, ordinary = (nn.Sequential(m, nn.ReLU(), nn.Linear(10, 2).double()) for m in (net, dense))
    head, usual = whole.get_submodule("2"), ordinary.get_submodule("2")
    head.load_state_dict(usual.state_dict())
    whole(images()).square().sum().backward()
    ordinary(images()).square().sum().backward()
    assert torch.allclose(head.get_parameter("weight").grad, usual.get_parameter("weight").grad)
    assert all(parameter.grad is not None for parameter in whole.parameters())
    assert whole.state_dict().keys() == ordinary.state_dict().keys()
    changed = {key: value + 0.25 for key, value in ordinary.state_dict().items()}
    for module in (whole, ordinary):
        module.load_state_dict(changed)
    assert torch.allclose(whole(images()), ordinary(images()))


def test_recomputing_gives_the_same_gradients_and_keeps_less():
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 3), nn.GELU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 24 * 24, 10)).double().eval()
    plan = UpdatePlan.full(trace(model, images()))
    kept, gradients = [], []
    for cuts in ((), ("1", "5")):
        net = sparsify(model, plan, images(), recompute=cuts)
        output = net(images())
        kept.append(output.grad_fn.held.kept_bytes)
        F.cross_entropy(output, labels()).backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
        recomputed = [op for op in net.program().operations if op.direction is Direction.RECOMPUTE]
        assert bool(recomputed) == bool(cuts)
    assert kept[1] < kept[0]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


# Memory.


@pytest.mark.parametrize("name", ZOO)
def test_what_waits_for_backward_is_what_the_program_keeps(name):
    net, _, _ = sparse_and_dense(name, torch.float32)
    output = net(images(dtype=torch.float32))
    held = output.grad_fn.held
    kept = sum(buffer.bytes for buffer in net.program().kept())
    assert live_bytes(held.state.buffers) == held.kept_bytes == kept > 0
    own = [weakref.ref(tensor) for tensor in held.state.buffers.values()]
    loss = output.sum()
    del held, output
    loss.backward()
    assert loss.grad_fn is not None  # the node lives, what it held does not
    assert not [1 for reference in own if reference() is not None]


def test_a_forward_without_backward_keeps_nothing_once_forgotten():
    net, _, _ = sparse_and_dense("tiny")
    output = net(images())
    buffers = [weakref.ref(t) for t in output.grad_fn.held.state.buffers.values()]
    del output
    assert not [1 for reference in buffers if reference() is not None]


def test_the_output_may_be_changed_in_place():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.Softmax(-1), nn.Flatten())
    model = model.double().eval()
    net = sparsify(model, UpdatePlan.full(trace(model, images())), images())
    reference = net(images())
    reference.square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net(images()).mul_(2).div_(2).square().sum().backward()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)


# Inference.


def test_evaluation_is_the_model_itself_with_the_weights_trained_so_far():
    net, _, _ = sparse_and_dense("tiny")
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    F.cross_entropy(net(images()), labels()).backward()
    step.step()
    programs = len(net._passes)
    net.eval()
    answers = [net(images(count)) for count in (1, 7)]
    net.train()
    with torch.no_grad():
        answers.append(net(images(7)))
    with torch.inference_mode():
        answers.append(net(images(7)))
    assert len(net._passes) == programs
    assert not any(answer.requires_grad for answer in answers)
    fresh = model_of("tiny")
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(answers[0], fresh(images(1)))
    for answer in answers[1:]:
        assert torch.equal(answer, fresh(images(7)))
    assert torch.allclose(net(images(7)), fresh(images(7)), rtol=1e-10)


def test_training_mode_reaches_neither_batch_norm_nor_dropout():
    net, dense, _ = sparse_and_dense("mobilenet_v3_like")
    net.train()
    assert torch.allclose(net(images()), dense(images()))
    net.dense().train()  # behind its back
    with torch.no_grad():
        assert torch.allclose(net(images()), dense(images()))
    for key, value in net.state_dict().items():
        assert torch.equal(value, dense.state_dict()[key]), key


# Saving, copying, moving.


def trained(name: str = "tiny") -> SparseModule:
    net, _, _ = sparse_and_dense(name)
    step = torch.optim.Adam(net.parameters(), lr=0.01)
    F.cross_entropy(net(images()), labels()).backward()
    step.step()
    return net


def test_the_state_dict_is_an_ordinary_models(tmp_path: Path):
    net = trained("tiny")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    fresh = model_of("tiny")
    keys = fresh.load_state_dict(torch.load(tmp_path / "state.pt"), strict=True)
    assert keys == ([], [])
    assert torch.allclose(net(images()), fresh(images()), rtol=1e-10)
    assert torch.equal(net.dense()(images()), fresh(images()))


@pytest.mark.parametrize("assign", [False, True])
def test_loading_an_ordinary_state_dict_reaches_parameters_and_model(assign):
    net = trained()
    other = model_of("tiny")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    parameters = list(net.parameters())
    assert net.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign) == ([], [])
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert torch.allclose(net(images()), other(images()))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    F.cross_entropy(net(images()), labels()).backward()
    step.step()
    assert not torch.allclose(net(images()), other(images()))


def test_a_state_dict_that_does_not_fit_is_refused_as_by_any_module():
    net = trained()
    state = net.state_dict()
    lacking = {key: value for key, value in state.items() if key != "head.weight"}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.weight"'):
        net.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        net.load_state_dict({**state, "extra": torch.zeros(1)})
    assert net.load_state_dict(lacking, strict=False).missing_keys == ["head.weight"]
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        net.load_state_dict({**state, "head.weight": torch.zeros(2, 2)})


def test_the_sparse_state_holds_the_trained_part_alone():
    net, other = trained(), sparse_and_dense("tiny")[0]
    state = net.sparse_state_dict()
    assert [tuple(t.shape) for t in state.values()] == [tuple(p.shape) for p in net.parameters()]
    other.load_sparse_state_dict(copy.deepcopy(state))
    assert torch.allclose(net(images()), other(images()))
    name = next(iter(state))
    for wrong, message in (
        ({n: t for n, t in state.items() if n != name}, f"{name!r} is missing"),
        ({**state, "extra": torch.zeros(1)}, "'extra' is not in the plan"),
        ({**state, name: torch.zeros(1, 1)}, "the plan selects"),
    ):
        with pytest.raises(InputError, match=message):
            other.load_sparse_state_dict(wrong)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_a_copy_is_a_module_of_its_own(copied):
    net = trained()
    twin = copied(net)
    before = net(images()).detach()
    assert torch.allclose(twin(images()), before)
    step = torch.optim.SGD(twin.parameters(), lr=0.5)
    F.cross_entropy(twin(images()), labels()).backward()
    step.step()
    assert not torch.allclose(twin(images()), before)
    assert torch.equal(net(images()), before)


def test_another_type_and_back():
    net = trained("tiny")
    exact = net(images())
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    net.float()
    with torch.inference_mode():
        net(images(dtype=torch.float32))
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert torch.allclose(net(images(dtype=torch.float32)).double(), exact, rtol=1e-3, atol=1e-4)
    net.to(torch.float64)
    F.cross_entropy(net(images()), labels()).backward()
    step.step()  # the parameters are still those the optimizer has
    fresh = model_of("tiny")
    fresh.load_state_dict(net.state_dict())
    assert torch.allclose(net(images()), fresh(images()))
    assert not torch.allclose(net(images()), exact, rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu():
    net = trained("tiny")
    expected = net(images())
    net.cuda()
    output = net(images().cuda())
    assert torch.allclose(output.cpu(), expected, rtol=1e-8)
    output.sum().backward()
    assert all(parameter.grad.is_cuda for parameter in net.parameters())


def test_autocast_computes_in_the_type_of_the_weights():
    net, _, _ = sparse_and_dense("small_vit", torch.float32)
    x = images(dtype=torch.float32)
    F.cross_entropy(net(x), labels()).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    step = torch.optim.SGD(net.parameters(), lr=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(x.double())  # as another part of the model would hand it over
        loss = F.cross_entropy(output, labels())
    assert output.dtype == torch.float32
    scaler.scale(loss).backward()
    scaler.unscale_(step)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        later = net(images(3, torch.float32))  # traced inside
    assert torch.allclose(later, net._model(images(3, torch.float32)), rtol=1e-4, atol=1e-5)


# What is refused.


def test_backward_is_possible_once():
    net, _, _ = sparse_and_dense("tiny")
    loss = F.cross_entropy(net(images()), labels())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once for each forward"):
        loss.backward()
    loss = net(images()).square().sum()
    (gradient, *_) = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_that_backward_reads_must_not_change_before_it():
    net, _, _ = sparse_and_dense("resnet18")
    model = net._model
    for name in ("fc.weight", "layer4.0.conv2.weight", "layer4.1.bn2.running_var"):
        loss = net(images()).sum()
        model.state_dict()[name].mul_(1)
        with pytest.raises(RuntimeError, match=f"'{name}', needed for the gradient"):
            loss.backward()
    loss = net(images()).sum()
    model.get_parameter("fc.bias").detach().mul_(1)  # no gradient depends on it
    loss.backward()


def test_an_optimizer_step_between_two_passes_is_noticed():
    net, _, _ = sparse_and_dense("tiny")
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    early = net(images()).sum()
    net(images()).sum().backward()
    step.step()
    net(images())
    with pytest.raises(RuntimeError, match="modified in place after the forward pass"):
        early.backward()


def test_an_input_that_backward_reads_must_not_change_before_it():
    model = model_of("tiny")
    x = images()
    net = sparsify(model, UpdatePlan.full(trace(model, x)), x)
    loss = net(x).sum()
    x.add_(1)
    with pytest.raises(RuntimeError, match="'input', needed for the gradient"):
        loss.backward()


def test_changing_the_model_in_place_is_noticed():
    net = trained()
    with torch.no_grad():
        net.dense().get_parameter("head.weight").mul_(2)
    expected = net.dense()(images())
    assert torch.allclose(net(images()), expected)
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    net(images()).sum().backward()
    step.step()
    with torch.no_grad():
        net._model.get_parameter("head.weight").mul_(2)
    with pytest.raises(RuntimeError, match="both changed"):
        net(images())


def test_optimizers_that_write_through_data_are_noticed():
    net = trained()
    before = net(images())
    for parameter in net.parameters():
        parameter.data.mul_(0.5)
    assert not torch.allclose(net(images()), before)


def test_moving_the_model_behind_its_back_is_refused():
    net = trained()
    net._model.float()
    with pytest.raises(RuntimeError, match="replaced or moved"):
        net(images())


def test_an_input_that_wants_a_gradient_is_refused():
    net = trained()
    with pytest.raises(InputError, match="requires a gradient"):
        net(images().requires_grad_())
    with torch.no_grad():
        net(images().requires_grad_())


def test_frozen_parameters_get_no_gradient():
    net, _, _ = sparse_and_dense("tiny")
    first, *others = net.parameters()
    first.requires_grad_(False)
    net(images()).sum().backward()
    assert first.grad is None
    assert all(parameter.grad is not None for parameter in others)
    net.requires_grad_(False)
    assert not net(images()).requires_grad


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (UpdatePlan(), "selects nothing"),
        (UpdatePlan((ChannelSubset("nowhere", "output", (0,)),)), "'nowhere' is not in the model"),
        (UpdatePlan((ChannelSubset("head", "output", (10,)),)), "has 10 selectable output"),
        (UpdatePlan((ChannelSubset("head", "output", (-1,)),)), "has 10 selectable output"),
        (UpdatePlan(biases=frozenset({"head"})), "no bias to update"),
    ],
)
def test_plans_that_do_not_fit_are_refused(plan, message):
    with pytest.raises(InputError, match=message):
        sparsify(model_of("tiny"), plan, images())


def test_models_that_do_not_fit_are_refused():
    plan = UpdatePlan((ChannelSubset("head", "output", (1,)),))
    with pytest.raises(InputError, match="training mode"):
        sparsify(model_of("tiny").train(), plan, images())
    with pytest.raises(InputError, match="example_input is needed"):
        sparsify(model_of("tiny"), plan)
    net = sparsify(model_of("tiny"), plan, images())
    with pytest.raises(InputError, match="cannot be traced"):
        net(torch.zeros(1, 5, 32, 32, dtype=torch.float64))
    with pytest.raises(InputError, match="program and its tensors are for"):
        net(images(dtype=torch.float32))


@pytest.mark.slow
def test_the_example_runs():
    script = Path(__file__).parents[2] / "examples" / "sparsify.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout.split()[1].rstrip("%;")) / 100 <= 1


# Plan files.


@pytest.fixture(scope="module")
def planned() -> PlanFile:
    """A plan for the smallest network of the zoo, as the command makes it."""
    request = PlanRequest(load_device("jetson-nano"), Greedy(), model="zoo:tiny", resolution=32)
    return make_plan(request).file


def test_a_plan_file_says_all_that_is_needed(planned, tmp_path):
    write_plan(tmp_path / "plan.json", planned)
    for plan in (planned, tmp_path / "plan.json", str(tmp_path / "plan.json")):
        net = sparsify(model_of("tiny", torch.float32), plan)
        assert net.plan == planned.plan
        assert net.input_shape == (1, 3, 32, 32)
        net(images(dtype=torch.float32)).sum().backward()
        assert isinstance(net.program(), costsim.TrainingProgram)


def test_a_plan_file_for_another_model_or_size_is_refused(planned, tmp_path):
    write_plan(tmp_path / "plan.json", planned)
    wide = tiny(width=8)
    with pytest.raises(InputError, match=r"plan\.json: was made for another model or input size"):
        sparsify(wide, tmp_path / "plan.json")
    with pytest.raises(InputError, match="on input 3x64x64"):
        sparsify(model_of("tiny", torch.float32), planned, torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"plan\.json: layer '.*' is not in the model"):
        sparsify(model_of("resnet18", torch.float32), tmp_path / "plan.json")
    with pytest.raises(InputError, match=r"missing\.json"):
        sparsify(wide, tmp_path / "missing.json")


def test_the_executor_is_not_asked_for_optimizer_state():
    net = trained()
    executor = net._pass_for(net.input_shape).executor
    assert isinstance(executor, Executor)
    assert executor.optimizer_state == {}
