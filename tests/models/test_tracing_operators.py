"""Operators as torch calls them, one at a time: what they are traced as, and what it computes."""

import pytest
import torch
from operator_cases import UNARY, WAYS, called, operator_of

from costsim.models.tracing import capture
from costsim.run.execution.forward import evaluate


@pytest.mark.parametrize(("name", "which"), WAYS)
def test_what_torch_calls_is_traced_as_the_operator(name: str, which: int) -> None:
    model, x = called(name, which)
    traced = capture(model, x)
    assert traced.graph.calls[-1].operator == operator_of(name)
    assert name not in UNARY or len(traced.graph) == 4


@pytest.mark.parametrize(("name", "which"), WAYS)
def test_it_computes_what_torch_does(name: str, which: int) -> None:
    """In float64 the value and the gradient, far out and at zero too."""
    model, x = called(name, which)
    model, x = model.double(), x.double()
    x.view(-1)[:5] = torch.tensor([0.0, 30.0, -30.0, 700.0, -700.0])
    traced = capture(model, x)
    wanted = model(x)
    found, _ = evaluate(traced.graph, traced.tensors, x)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=0, equal_nan=True)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(4)).double()
    (expected,) = torch.autograd.grad((wanted * weights).sum(), [model.gain])
    (gradient,) = torch.autograd.grad((found * weights).sum(), [model.gain])
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0, equal_nan=True)
