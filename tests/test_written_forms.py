"""Networks as people write them, whole: outputs, gradients, bytes and MACs of every form."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from by_default import by_default
from running import check_measured
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.ir.plan import UpdatePlan
from costsim.ir.step import TrainingStep
from costsim.models.tracing import capture
from costsim.planning import parameters_digest
from costsim.run.execution.forward import evaluate
from costsim.run.sparse import sparsify

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
        self.wide = nn.Conv2d(3, 16, 1)
        self.slope = nn.Parameter(torch.tensor([0.3]))
        self.mixing = nn.Parameter(torch.randn(8, 8))
        self.instances = nn.InstanceNorm2d(8, affine=True)
        self.running = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.second_weight = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.form(self, x).mean((2, 3)))


def written(form: Form, prepare: Callable[[Any], None] = lambda _m: None) -> nn.Module:
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
    "slopes that are learnt": lambda m, x: F.prelu(m.second(F.prelu(m.first(x), m.slope)), m.scale),
    "instances": lambda m, x: m.instances(m.second(m.instances(m.first(x)))),
    "instances by running statistics": lambda m, x: m.running(m.second(m.first(x))),
    "twice as many pixels": lambda m, x: m.second(F.interpolate(m.first(x), scale_factor=2)),
    "more pixels by two factors": lambda m, x: m.second(F.interpolate(m.first(x), (16, 21))),
    "pixels out of channels": lambda m, x: m.second(
        F.pixel_shuffle(torch.cat([m.wide(x), m.wide(-x)], 1), 2)
    ),
    "channels shuffled": lambda m, x: m.second(F.channel_shuffle(m.first(x), 4)),
    "a product by letters": lambda m, x: torch.einsum("nchw,cd->ndhw", m.first(x), m.mixing),
    "a gated half": lambda m, x: m.second(torch.cat([F.glu(m.first(x), 1)] * 2, 1)),
    "powers": lambda m, x: m.first(x) ** 2 + m.second(m.first(x)).pow(3) - m.first(x).square() ** 2,
    "sums": lambda m, x: m.second(m.first(x)).sum((2, 3), keepdim=True) + m.first(x).sum() / 99,
    "the greatest of all pixels": lambda m, x: F.adaptive_max_pool2d(m.second(m.first(x)), 1),
    "the greatest of blocks": lambda m, x: F.adaptive_max_pool2d(m.second(m.first(x)), (4, 1)),
    "the greatest of a row": lambda m, x: m.second(m.first(x)).max(3, keepdim=True)[0],
    "the greatest of pairs": lambda m, x: m.wide(x).unflatten(1, (8, 2)).max(2).values,
    "rolled": lambda m, x: m.second(torch.roll(m.first(x), (1, -2), (2, -1))),
    "rolled flat": lambda m, x: m.second(torch.roll(m.first(x), 5)),
    "flipped": lambda m, x: m.second(m.first(x).flip((1, 3))),
    "a reflected border": lambda m, x: m.second(F.pad(m.first(x), (2, 1, 0, 3), mode="reflect")),
    "a circular border": lambda m, x: m.second(F.pad(m.first(x), (2, 1, 0, 3), mode="circular")),
    "a repeated border": lambda m, x: m.second(F.pad(m.first(x), (2, 1, 0, 3), mode="replicate")),
    "gated cells": lambda m, x: m.gru(m.first(x).mean(2).transpose(1, 2))[0][:, -1, :, None, None],
    "cells with memory": lambda m, x: m.lstm(m.first(x).mean(2).mT)[0].mT[..., None],
    "quotients": lambda m, x: (
        m.second(m.first(x)) / (m.wide(x)[:, :8, 2:, 2:].abs() + 1) / m.scale[0]
    ),
    "a number over values": lambda m, x: 2 / (m.second(m.first(x)).exp() + 0.5),
    "repeated": lambda m, x: (
        m.second(m.first(x).repeat(1, 1, 2, 3)) + m.scale.repeat(2, 1, 1).mean()
    ),
    "of length one": lambda m, x: F.normalize(m.second(F.normalize(m.first(x), dim=1)), dim=2),
    "of length one or none": lambda m, x: m.second(F.normalize((m.first(x) - 1).relu(), dim=1)),
    "softsign": lambda m, x: F.softsign(m.second(F.softsign(m.first(x)))),
    "scaled exponential units": lambda m, x: F.selu(m.second(F.selu(m.first(x)))),
    "root mean squares": lambda m, x: F.rms_norm(m.first(x).mT, (8,), m.scale, 1e-6),
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
    with pytest.MonkeyPatch.context() as patch:  # a trace of the same model is the same
        patch.setattr("costsim.run.sparse.module.capture", lambda *_: traced)
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


LONG = ("cells with memory", "root mean squares", "scaled exponential units", "gated cells")


@pytest.mark.parametrize("name", by_default(FORMS, FORMS.keys() - set(LONG)))
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


def test_constants_that_depend_on_the_batch_are_no_part_of_the_weights() -> None:
    model = written(lambda m, x: m.first(x) + torch.ones(x.shape[0], 8, 1, 1, dtype=x.dtype))
    one, three = (capture(model, torch.zeros(n, 3, 10, 9).double()).tensors for n in (1, 3))
    sizes = [[len(t) for name, t in of.items() if name[0] == "."] for of in (one, three)]
    assert sizes == [[1], [3]]
    assert len({*one, *three}) == len(one) + 1  # they can lie side by side
    assert parameters_digest(one) == parameters_digest(three)
    before = parameters_digest(one)
    with torch.no_grad():
        model.get_parameter("first.bias").add_(1)
    assert parameters_digest(one) != before


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


@pytest.mark.parametrize("name", by_default(PARTLY, list(PARTLY)[-2:]))
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


# Operators that torch writes as others.


def test_of_operators_that_cannot_be_taken_apart_the_models_own_is_named() -> None:
    def form(m: Any, x: Tensor) -> Tensor:
        y = torch.einsum("nchw,cd->ndhw", m.first(x), m.mixing)
        return y + y.cumsum(1)

    with pytest.raises(UnsupportedOperator, match=r"operator aten\.cumsum\.default"):
        capture(written(form), torch.zeros(2, 3, 10, 9).double())


def test_a_parametrised_weight_is_computed() -> None:
    model = written(lambda m, x: m.second(m.first(x)))
    nn.utils.parametrizations.weight_norm(model.second)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 10, 9).double()
    model.eval()
    found = capture(model, x)
    assert "dynamic_convolution" in {call.operator.kind for call in found.graph.calls}
    assert any("parametrizations" in name for name in found.graph.layers)
    output, _ = evaluate(found.graph, found.tensors, x)
    torch.testing.assert_close(output, model(x), rtol=1e-12, atol=1e-12)


LIMITED: Mapping[str, tuple[Form, str]] = {
    "cells of two sizes": (
        lambda m, x: F.adaptive_max_pool2d(m.first(x), 3),
        "windows of one size",
    ),
    "a power of zero": (lambda m, x: m.first(x) ** 0, "with the exponent 0"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits_are_named(name: str) -> None:
    form, message = LIMITED[name]
    with pytest.raises(UnsupportedOperator) as caught:
        capture(written(form), torch.zeros(2, 3, 10, 9).double())
    assert message in str(caught.value)
