"""Programs translated as `torch.export` gives them: the same graph as taken apart, in less time."""

import sys
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from by_default import by_default
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional
from zoo import ZOO

from costsim.models.tracing import Traced, capture, capture_program
from costsim.run.execution.forward import evaluate

CAPTURE = sys.modules["costsim.models.tracing.capture"]


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def taken_apart(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Traced:
    with monkeypatch.context() as patch:
        patch.setattr(CAPTURE, "is_plain", lambda *_: False)
        return capture(model, images())


@pytest.mark.parametrize("name", by_default(ZOO, ["tiny", "classic", "small_vit"]))
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


MAY_RETURN_ITS_INPUT: dict[str, Callable[[Tensor], Tensor]] = {
    "functional.dropout": lambda y: functional.dropout(y, 0.5, training=False),
    "functional.dropout, p=0": lambda y: functional.dropout(y, 0.0, training=True),
    "functional.dropout2d": lambda y: functional.dropout2d(y, 0.5, training=False),
    "functional.alpha_dropout": lambda y: functional.alpha_dropout(y, 0.5, training=False),
    "nn.Dropout": nn.Dropout(0.5).eval(),
    "nn.Identity": nn.Identity(),
    "contiguous": lambda y: y.contiguous(),
    "contiguous of what is not": lambda y: y.transpose(1, 2).contiguous().transpose(1, 2),
    "expand": lambda y: y.expand(2, -1, -1, -1),
    "to": lambda y: y.to(torch.float32),
    "reshape": lambda y: y.reshape(2, 4, -1).reshape(y.shape),
    "flatten of what is transposed": lambda y: y.transpose(0, 1).flatten().view(4, 2, 30, 30)
    .transpose(0, 1),
    "ellipsis": lambda y: y[...],
    "cat": lambda y: torch.cat([y]),
    "clone": lambda y: y.clone(),
    "einsum": lambda y: torch.einsum("nchw->nchw", y),
    "einsum, transposed": lambda y: torch.einsum("nchw->ncwh", y).mT,
    "broadcast_tensors": lambda y: torch.broadcast_tensors(y, torch.zeros(2, 4, 1, 1))[0],
    "sum_to_size": lambda y: y.sum_to_size(y.shape),
    "interpolate": lambda y: functional.interpolate(y, scale_factor=1),
    "pad": lambda y: functional.pad(y, (0, 0)),
    "pad, reflect": lambda y: functional.pad(y, (0, 0, 0, 0), mode="reflect"),
    "interpolate, bilinear": lambda y: functional.interpolate(y, scale_factor=1, mode="bilinear"),
    "roll": lambda y: y.roll(0, 1),
    "channel_shuffle": lambda y: functional.channel_shuffle(y, 1),
    "pixel_shuffle": lambda y: functional.pixel_shuffle(y, 1),
    "unfold and fold": lambda y: functional.fold(functional.unfold(y, 1), (30, 30), 1),
    "where": lambda y: torch.where(torch.ones(30, 30) > 0, y, y),
    "index_select": lambda y: y.index_select(1, torch.arange(4)),
    "repeat_interleave": lambda y: y.repeat_interleave(1, 1),
    "adaptive_avg_pool2d": lambda y: functional.adaptive_avg_pool2d(y, 30),
    "amax of one": lambda y: y.unsqueeze(0).amax(0),
}  # fmt: skip


SOME = (
    "functional.dropout", "functional.dropout, p=0", "contiguous of what is not",
    "einsum, transposed", "pad", "cat",
)  # fmt: skip
"""One of each way to return it: always, as a view, by a decomposition, where nothing is to do."""


@pytest.mark.parametrize("changed", ["input", "result"])
@pytest.mark.parametrize("name", by_default(MAY_RETURN_ITS_INPUT, SOME))
def test_a_call_that_returns_its_input_is_no_copy(name: str, changed: str) -> None:
    """By schema all but a few of these return a new tensor. (`capture` reads what it exports as
    `capture_program` does.)
    """

    def function(y: Tensor) -> Tensor:
        z = MAY_RETURN_ITS_INPUT[name](y)
        (y if changed == "input" else z).mul_(2.0)
        return y * 0.75 + z

    torch.manual_seed(0)
    model = Net(function)
    with torch.no_grad():
        wanted = model(images())
        exported = torch.export.export(model, (images(),))
        nodes = list(exported.graph.nodes)
        traced = capture_program(exported)
        found, _ = evaluate(traced.graph, traced.tensors, images())
        torch.testing.assert_close(found, wanted)
    assert list(exported.graph.nodes) == nodes  # it is the caller's


def test_a_block_without_gradients_is_looked_into() -> None:
    def function(y: Tensor) -> Tensor:
        with torch.no_grad():
            z = functional.dropout(y, 0.5, training=False)
            z.mul_(2.0)
        return y * 0.75 + z

    model = Net(function).requires_grad_(False)
    wanted = model(images())
    traced = capture(model, images())
    found, _ = evaluate(traced.graph, traced.tensors, images())
    torch.testing.assert_close(found, wanted)
