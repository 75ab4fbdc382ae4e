"""Gradients that a model makes itself: refused where a training program would not have them."""

import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.module import register_module_full_backward_hook
from torch.utils.checkpoint import checkpoint

from costsim import sparsify
from costsim.base.errors import InputError, UnsupportedOperator
from costsim.ir.plan import UpdatePlan
from costsim.models.tracing import capture


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class StraightThrough(torch.autograd.Function):
    """With all that such a function may have: a context of its own, a rule for vmap, jvp."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None, None

    @staticmethod
    def jvp(ctx: Any, g: Tensor, *_: Any) -> Tensor:
        return g

    @staticmethod
    def vmap(info: Any, dimensions: Any, x: Tensor, low: float, high: float) -> Any:
        return x.clamp(low, high), 0


reverse = Reversed.apply  # taken before anything is traced, as libraries have it


class Middle(nn.Module):
    """What is called between two layers, as a module of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.middle = Middle(function)
        self.last = nn.Linear(8, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(torch.relu(self.first(x))))


def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def hooked(name: str) -> Callable[[Tensor], Tensor]:
    def function(y: Tensor) -> Tensor:
        z = y * 1
        getattr(z, name)(lambda g: g * 2)
        return z

    return function


def multi(y: Tensor) -> Tensor:
    torch.autograd.graph.register_multi_grad_hook((y,), lambda _: None)
    return y


def any_of_them(y: Tensor) -> Tensor:
    torch.autograd.graph.register_multi_grad_hook((y,), lambda _: None, mode="any")
    return y


def on_the_node(y: Tensor) -> Tensor:
    assert y.grad_fn is not None
    y.grad_fn.register_prehook(lambda g: (g[0] * 2,))
    return y


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "function": (Reversed.apply, "autograd.Function 'Reversed'"),
    "bound before": (reverse, "autograd.Function 'Reversed'"),
    "with a context": (lambda y: StraightThrough.apply(y, -1.0, 1.0), "'StraightThrough'"),
    "by keyword": (lambda y: StraightThrough.apply(x=y, low=-1.0, high=1.0), "'StraightThrough'"),
    "in a checkpoint": (lambda y: checkpoint(reverse, y, use_reentrant=False), "'Reversed'"),
    "in a reentrant one": (lambda y: checkpoint(reverse, y, use_reentrant=True), "'Reversed'"),
    "compiled": (lambda y: torch.compile(reverse)(y), "'Reversed'"),
    "hook": (hooked("register_hook"), "register_hook()"),
    "several": (multi, "register_hook()"),
    "any of several": (any_of_them, "register_hook()"),
    "node": (on_the_node, "grad_fn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_gradients_of_its_own_are_refused(case: str) -> None:
    function, named = REFUSED[case]
    model = Net(function)
    with pytest.raises(InputError) as caught:
        capture(model, x())
    message = str(caught.value)
    assert named in message
    assert "in its module 'middle'" in message
    assert "\n" not in message
    whole = UpdatePlan.full(capture(Net(torch.relu), x()).graph)
    with pytest.raises(InputError, match="in its module 'middle'"):
        sparsify(model, whole, x())
    if case != "compiled":  # which takes a compiler
        assert model(x()).requires_grad  # left as it was


def test_under_vmap_they_are_refused_too() -> None:
    with pytest.raises(InputError):
        capture(Net(lambda y: torch.func.vmap(lambda z: StraightThrough.apply(z, -1, 1))(y)), x())


def test_a_custom_operator_is_refused_by_name() -> None:
    @torch.library.custom_op("costsim_tests::negative", mutates_args=())
    def negative(y: Tensor) -> Tensor:
        return -y

    negative.register_fake(lambda y: torch.empty_like(y))
    negative.register_autograd(lambda _, g: g)
    with pytest.raises(UnsupportedOperator, match=r"costsim_tests.negative.default .* 'middle'"):
        capture(Net(negative), x())


def parameter_hook(model: Net) -> Any:
    return model.first.weight.register_hook(lambda g: g * 2)


def accumulated(model: Net) -> Any:
    return model.first.weight.register_post_accumulate_grad_hook(lambda _p: None)


def doubled(_: nn.Module, gradients: Any, __: Any) -> Any:
    return (gradients[0] * 2,)


BEFORE: dict[str, tuple[Callable[[Net], Any], str]] = {
    "parameter": (parameter_hook, "parameter 'first.weight'"),
    "accumulated": (accumulated, "parameter 'first.weight'"),
    "module": (
        lambda m: m.middle.register_full_backward_hook(doubled),
        "module 'middle'",
    ),
    "before the module": (
        lambda m: m.register_full_backward_pre_hook(lambda _, g: g),
        "gradients of itself",
    ),
    "every module": (
        lambda _m: register_module_full_backward_hook(lambda *_: None),
        "every module",
    ),
}


@pytest.mark.parametrize("case", BEFORE)
def test_hooks_registered_before_are_refused_until_they_are_removed(case: str) -> None:
    register, named = BEFORE[case]
    model = Net(torch.tanh)
    handle = register(model)
    try:
        with pytest.raises(InputError, match=named):
            capture(model, x())
    finally:
        handle.remove()
    capture(model, x())


def saved(y: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return y * y


def retained(y: Tensor) -> Tensor:
    z = y * y
    if z.requires_grad:
        z.retain_grad()
    return z


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "checkpoint": lambda y: checkpoint(torch.sigmoid, y, use_reentrant=False),
    "reentrant checkpoint": lambda y: checkpoint(torch.sigmoid, y, use_reentrant=True),
    "hooks on what is kept": saved,
    "retained gradient": retained,
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_leaves_gradients_alone_gives_those_of_autograd(case: str) -> None:
    model = Net(RIGHT[case]).double()
    model(x().double()).square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    sparse = sparsify(model, UpdatePlan.full(capture(model, x().double()).graph), x().double())
    sparse(x().double()).square().sum().backward()
    found = {name: p.grad for name, p in sparse.selected.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)


def test_where_no_gradient_flows_there_is_none_to_be_wrong() -> None:
    """Of the images alone, or behind frozen parameters alone."""

    class Prepared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(torch.relu)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(reverse(x))

    capture(Prepared().eval(), x())
    model = Net(reverse)
    model.first.requires_grad_(False)
    capture(model, x())
    model.first.bias.requires_grad_(True)
    with pytest.raises(InputError, match="'Reversed'"):
        capture(model, x())


def test_no_grad_around_frozen_parameters_stops_nothing() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
            self.first.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.first(x)
            return self.last(F.relu(y.detach()))

    model = Frozen().eval()
    capture(model, x())
    model.first.bias.requires_grad_(True)
    with pytest.raises(InputError, match=r"stops gradients .*no_grad"):
        capture(model, x())


def test_torch_is_left_as_it_was() -> None:
    names = ("register_hook", "register_post_accumulate_grad_hook", "grad_fn")
    before = [getattr(Tensor, name) for name in names]
    for function in (torch.relu, reverse):
        try:
            capture(Net(function), x())
        except InputError:
            assert function is reverse
    assert [getattr(Tensor, name) for name in names] == before
    y = torch.ones(2, requires_grad=True)
    reverse(y).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [-1, -1]


def test_other_threads_go_on_with_their_gradients() -> None:
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            y = torch.ones(2, requires_grad=True)
            z = reverse(y)
            z.register_hook(lambda g: g)
            assert z.grad_fn is not None
        except BaseException as error:
            failed.append(error)

    def function(y: Tensor) -> Tensor:
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        return y

    capture(Net(function), x())
    assert not failed


def test_the_command_refuses_them_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn

        class Reversed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.view_as(x)
            @staticmethod
            def backward(ctx, g): return -g

        class Domain(nn.Module):
            input_shape = (3, 32, 32)
            def __init__(self):
                super().__init__()
                self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1))
                self.domain = nn.Linear(8, 2)
            def forward(self, x):
                return self.domain(Reversed.apply(self.features(x).flatten(1)))
        """)
    )
    arguments = ["plan", "--device", "pi-zero-2", "--model", "nets:Domain", "--out", "plan.json"]
    done = run(["-m", "costsim", *arguments], cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("costsim:")]
    assert "autograd.Function 'Reversed'" in line
    assert not done.stdout
    assert not (tmp_path / "plan.json").exists()
