"""Images with channels last: the same step as with channels first, and chosen where it can be."""

import pytest
import torch
from graphs import GraphBuilder, chain
from running import copies, mean_square, random_tensors, targets_for
from settled import settled_images

from costsim.ir.operators import Permute, ReLU
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.execution.layout import has_channels_last, rows_of, suits_channels_last
from costsim.run.execution.masks import PASSES, in_memory_order, mask_of, multiply_

CPU = torch.device("cpu")


def pointwise():
    """Products of pixels, of images that are not square."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(2, 3, 4, 6), 5, 3))
    g.pool(g.conv(g.relu(g.conv(x, 4, 1)), 3, 1))
    return g.graph()


@pytest.mark.parametrize("graph", [chain(batch=2), pointwise()], ids=["chain", "pointwise"])
def test_both_formats_make_the_same_step(graph):
    step = TrainingStep(2)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    start = random_tensors(graph, torch.float32)
    x, targets = settled_images(graph, start, step), targets_for(graph, step, torch.float32)
    after = []
    for last in (False, True):
        tensors = copies(start)
        executor = Executor(program, tensors, loss=mean_square, channels_last=last)
        loss = executor.step(x, targets)
        after.append((executor.channels_last, loss, tensors))
    assert [chosen for chosen, _, _ in after] == [False, True]
    torch.testing.assert_close(after[0][1:], after[1][1:], rtol=1e-4, atol=1e-5)


def test_the_format_is_chosen_by_type_and_by_what_reads_the_order_of_dimensions():
    g = GraphBuilder()
    y = g.conv(g.input(2, 3, 4, 4), 5, 3)
    assert suits_channels_last(g.graph(), torch.float32, CPU)
    assert not suits_channels_last(g.graph(), torch.float64, CPU)
    g.add(Permute((0, 2, 3, 1)), (y,))
    assert not suits_channels_last(g.graph(), torch.float32, CPU)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1)])
def test_masks_have_their_bits_in_the_order_of_memory(shape):
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    assert torch.equal(in_memory_order(x), x.permute(0, 2, 3, 1).reshape(-1))
    masked = multiply_(torch.ones_like(x), mask_of(PASSES[ReLU()], x))
    assert torch.equal(masked, (x > 0).float())
    assert torch.equal(rows_of(x).view(-1), in_memory_order(x))
    assert has_channels_last(x) == (shape[1] > 1 and shape[2:] != (1, 1))
