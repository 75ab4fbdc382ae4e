"""Programs translated as `torch.export` gives them: the same graph as taken apart, in less time."""

import sys
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from zoo import ZOO

from costsim.models.tracing import Traced, capture
from costsim.run.execution.forward import evaluate

CAPTURE = sys.modules["costsim.models.tracing.capture"]


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def taken_apart(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Traced:
    with monkeypatch.context() as patch:
        patch.setattr(CAPTURE, "is_plain", lambda *_: False)
        return capture(model, images())


@pytest.mark.parametrize("name", ZOO)
def test_known_operators_are_read_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ZOO[name]()
    wanted = taken_apart(model, monkeypatch)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("traced a second time")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)
    found = capture(model, images())
    assert found.graph == wanted.graph
    assert list(found.tensors) == list(wanted.tensors)
    assert all(tensor is wanted.tensors[key] for key, tensor in found.tensors.items())


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def changed_after_a_view(y: Tensor) -> Tensor:
    flat = y.flatten(1)
    y.relu_()
    return flat


def view_changed(y: Tensor) -> Tensor:
    y.flatten(1).mul_(2.0)
    return y * 1


def result_not_used(y: Tensor) -> Tensor:
    y.relu_()
    return y + 1


def changed_twice(y: Tensor) -> Tensor:
    before = y * 3
    y.add_(before).relu_()
    return y - before


def by_itself(y: Tensor) -> Tensor:
    y.mul_(y)
    return y


IN_PLACE = (changed_after_a_view, view_changed, result_not_used, changed_twice, by_itself)


@pytest.mark.parametrize("function", IN_PLACE)
def test_what_is_changed_in_place_is_seen_through_every_name(
    function: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Net(function)
    with torch.no_grad():
        wanted = model(images())
        traced = capture(model, images())
        found, _ = evaluate(traced.graph, traced.tensors, images())
    torch.testing.assert_close(found, wanted)
