"""Networks as people write them, whole: outputs, gradients, bytes and MACs of every form."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from running import check_measured
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from costsim.errors import InputError
from costsim.plan import UpdatePlan
from costsim.sparse import sparsify
from costsim.step import TrainingStep
from costsim.tracing import capture

Form = Callable[[Any, Tensor], Tensor]


class Written(nn.Module):
    """Two convolutions, a head, whatever else a form needs, and the form as `forward`."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.other = nn.Linear(8, 4)
        self.scale, self.offset = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.second_weight = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self, x).mean((2, 3)))


def written(form: Form, prepare: Callable[[Any], None] = lambda m: None) -> nn.Module:
    torch.manual_seed(3)
    model = Written(form)
    prepare(model)
    return model.double().eval()


def share_weight(m: Any) -> None:
    m.again.weight = m.second.weight


FORMS: Mapping[str, Form] = {
    "a scale of each channel": lambda m, x: m.second(m.first(x)) * m.scale[:, None, None],
    "an offset of each channel": lambda m, x: m.second(m.first(x)) + m.offset.view(1, -1, 1, 1),
    "both, then a mask": lambda m, x: (
        m.scale.reshape(8, 1, 1) * m.second(m.first(x)) + m.offset[None, :, None, None]
    ).relu(),
    "two weights that read alike": lambda m, x: F.conv2d(
        m.second(m.first(x)), m.second_weight, padding=1
    ),
}


def agrees_with_autograd(model: nn.Module) -> None:
    """All gradients of the sparse module are dense autograd's; bytes and MACs are as priced."""
    x = torch.randn(2, 3, 10, 9, generator=torch.Generator().manual_seed(4)).double()
    traced = capture(model, x)
    plan = UpdatePlan.full(traced.graph)
    dense = copy.deepcopy(model)
    net = sparsify(model, plan, x)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    output, expected = net(x), dense(x)
    torch.testing.assert_close(output, expected)
    output.cos().sum().backward()
    expected.cos().sum().backward()
    torch.optim.SGD(net.parameters(), 1.0).step()
    after = net.state_dict()
    gradients = dict(dense.named_parameters(remove_duplicate=False))
    for name, parameter in gradients.items():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(before[name] - after[name], wanted, rtol=1e-9, atol=1e-9)
    check_measured(traced.graph, plan, TrainingStep(batch=2, micro_batch=2))


@pytest.mark.parametrize("name", FORMS)
def test_forms_agree_with_autograd(name: str) -> None:
    agrees_with_autograd(written(FORMS[name]))


def test_a_weight_with_two_biases_gives_each_its_own_gradient() -> None:
    model = written(lambda m, x: m.again(m.second(m.first(x))), share_weight)
    agrees_with_autograd(model)
    graph = capture(model, torch.zeros(2, 3, 10, 9).double()).graph
    assert graph.layers["second"].calls == ("second", "second#2")
    assert graph.layers["again.bias"].bias is not None


def test_a_weight_with_and_without_a_bias_gives_both_their_gradients() -> None:
    def form(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(m.second(F.conv2d(m.first(x), m.second.weight)), m.second.weight)

    agrees_with_autograd(written(form))


# What would have but a part of its gradient.

PARTLY: Mapping[str, Form] = {
    "transposed too": lambda m, x: F.linear(m.other(m.first(x).mean((2, 3))), m.other.weight.t())[
        ..., None, None
    ],
    "overlapping parts": lambda m, x: torch.cat(
        [F.conv2d(m.first(x), m.second.weight[part]) for part in (slice(5), slice(3, 6))], 1
    ),
    "one bias of two weights": lambda m, x: F.conv2d(
        m.second(m.first(x)), m.second_weight, m.second.bias
    ),
    "its projection whole and in parts": lambda m, x: _attended(m, m.first(x)),
    "as a weight and as a value": lambda m, x: m.second(m.first(x)) * m.second.weight.mean(),
}


def _attended(m: Any, x: Tensor) -> Tensor:
    y = x.flatten(2).transpose(1, 2)
    y = m.attention(y, y, y, need_weights=False)[0]
    y = m.attention(y, y[:, :4], y[:, :4], need_weights=False)[0]
    return y.transpose(1, 2)[..., None]


@pytest.mark.parametrize("name", PARTLY)
def test_a_parameter_whose_gradient_would_be_a_part_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"read one parameter .*copy of its own"):
        capture(written(PARTLY[name]), torch.zeros(2, 3, 10, 9).double())


def _without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.first(x)
    return m.second(y)


STOPPED: Mapping[str, Form] = {
    "detach": lambda m, x: m.second(m.first(x).detach()),
    "a detached branch": lambda m, x: m.first(x).detach() + m.first(x),
    "a detached weight": lambda m, x: F.conv2d(m.first(x), m.second.weight.detach()),
    "no_grad": _without_gradient,
}


@pytest.mark.parametrize("name", STOPPED)
def test_gradients_that_a_model_stops_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="stops gradients") as caught:
        capture(written(STOPPED[name]), torch.zeros(2, 3, 10, 9).double())
    assert "\n" not in str(caught.value)


def _normalised(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.mean((2, 3), keepdim=True)
    return m.second(m.first(x.detach() - mean))


def test_what_depends_on_no_parameter_may_be_computed_without_gradients() -> None:
    agrees_with_autograd(written(_normalised))
