"""Every operator kind, in every way it can be used, against autograd and its own price."""

import pytest
from channel_plans import channel_plans
from operator_cases import BINARY, CASES, SPATIAL, UNARY, WEIGHTED, case
from running import check_gradients, check_measured, check_rounded_gradients

from costsim.ir.operators import (
    OPERATORS,
    Convolution,
    Operator,
)
from costsim.ir.operators.activation import Masked
from costsim.ir.step import TrainingStep
from costsim.run.execution.forward import FORWARD
from costsim.run.execution.in_place import IN_PLACE
from costsim.run.execution.input_gradient import INPUT_GRADIENT
from costsim.run.execution.masks import PASSES
from costsim.run.execution.saved_values import SAVING
from costsim.run.execution.weight_gradient import WEIGHT_GRADIENT


def test_every_kind_has_its_kernels_and_a_case():
    sources = {"input", "constant"}
    views = {kind for kind, operator in OPERATORS.items() if operator.is_view}
    run = OPERATORS.keys() - sources - views
    assert FORWARD.keys() == OPERATORS.keys() - {"input"}
    masked = {k for k, o in OPERATORS.items() if issubclass(o, Masked)}
    assert PASSES.keys() == masked
    assert INPUT_GRADIENT.keys() == run - masked - {"convolution"}
    weighted = {
        k for k, o in OPERATORS.items() if o.selectable_channels is not Operator.selectable_channels
    }
    assert WEIGHT_GRADIENT.keys() == weighted - {"convolution"}
    overwriting = {k for k, o in OPERATORS.items() if o.overwritable_inputs}
    assert IN_PLACE.keys() == overwriting
    saving = {k for k, o in OPERATORS.items() if o.saved is not Operator.saved}
    assert SAVING.keys() == saving - masked
    tried = {op.kind for table in (UNARY, BINARY, WEIGHTED) for op, *_ in table.values()}
    assert tried == OPERATORS.keys() - sources


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
@pytest.mark.parametrize("name", CASES)
def test_each_kind_agrees_with_autograd(name, alone):
    graph = case(name, alone=alone)
    step = TrainingStep(batch=graph.batch, micro_batch=graph.batch)
    for plan in channel_plans(graph):
        check_gradients(graph, plan, step)
        check_measured(graph, plan, step)


OF_IMAGES = [
    name
    for name, (operator, shape, _) in WEIGHTED.items()
    if isinstance(operator, Convolution) and shape == SPATIAL
]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_convolutions_of_images_agree_in_single_precision_too(name):
    """It has kernels of its own; the images are not square."""
    graph = case(name, alone=True)
    step = TrainingStep(batch=graph.batch, micro_batch=graph.batch)
    for plan in channel_plans(graph):
        check_rounded_gradients(graph, plan, step)
