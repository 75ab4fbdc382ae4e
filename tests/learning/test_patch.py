"""Patches: on and off again bit for bit, for their own base and no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import signed
import torch
from graphs import graphs, plans
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import random_tensors, with_statistics
from safetensors.torch import load, save
from training import bits

from costsim.base.errors import InputError
from costsim.ir.operators import Convolution, Input
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.learning.training import (
    Origin,
    apply_patch,
    make_patch,
    read_patch,
    remove_patch,
    write_patch,
)
from costsim.run.execution.executor import Executor

ORIGIN = Origin(name="net", spec="net:make", weights=None, resolution=8, seed=0)
PLAN = "0" * 64


def selections(graph, plan, tensors):
    return Executor(compile_program(graph, plan, TrainingStep(graph.batch)), tensors).selections


def clones(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def trained_from(base, graph, plan, seed=1):
    """`base` with other bits, any at all, in the selected channels."""
    generator = torch.Generator().manual_seed(seed)
    trained, found = clones(base), selections(graph, plan, base)
    for (kind, name), selection in found.items():
        layer = graph.layers[name]
        parameter = layer.bias if kind == "bias" else layer.weight
        words = torch.randint(-(2**31), 2**31, selection.shape, generator=generator)
        selection.write(trained[parameter.name], words.to(torch.int32).view(torch.float32))
    return trained, found


@settings(max_examples=80)
@given(st.data())
def test_on_and_off_again_bit_for_bit(tmp_path_factory, data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    plan = data.draw(plans(graph))
    base = random_tensors(graph, torch.float32)
    trained, found = trained_from(base, graph, plan, data.draw(st.integers(0, 99)))
    path = tmp_path_factory.getbasetemp() / "drawn.safetensors"
    write_patch(path, make_patch(found, graph, base, trained, origin=ORIGIN, plan_sha256=PLAN))
    patch = read_patch(path)
    assert patch.origin == ORIGIN
    assert patch.channels == sum(len(subset.channels) for subset in plan.subsets)
    tensors = clones(base)
    apply_patch(patch, tensors)
    assert bits(tensors) == bits(trained)
    remove_patch(patch, tensors)
    assert bits(tensors) == bits(base)


@pytest.fixture
def example():
    """A graph of two convolutions, a plan for both, a base, and what was trained from it."""
    from graphs import GraphBuilder

    g = GraphBuilder()
    x = g.add(Input((1, 4, 6, 6)))
    x = g.add(Convolution((1, 1), (1, 1), (1, 1), 1), (x,), (8, 4, 3, 3), True, "first")
    g.add(Convolution((1, 1), (0, 0), (1, 1), 2), (x,), (6, 4, 1, 1), True, "second")
    from costsim.ir.graph import LayerGraph

    graph = LayerGraph(g.calls)
    plan = UpdatePlan(
        (ChannelSubset("first", "output", (1, 4, 6)), ChannelSubset("second", "input", (0, 5))),
        frozenset({"second"}),
    )
    base = random_tensors(graph, torch.float32)
    trained, found = trained_from(base, graph, plan)
    return graph, base, trained, found


@pytest.fixture
def patch(example):
    graph, base, trained, found = example
    return make_patch(found, graph, base, trained, origin=ORIGIN, plan_sha256=PLAN)


def test_only_the_changed_channels_are_written(patch, tmp_path):
    write_patch(tmp_path / "p", patch)
    tensors = load((tmp_path / "p").read_bytes())
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith("new/")}
    # second: 2 of 8 input channels, each seen by the 6 / 2 outputs of its group
    assert shapes == {
        "new/first.weight": (3, 4, 3, 3),
        "new/second.weight": (2, 3, 1, 1),
        "new/second.bias": (6,),
    }


def test_the_same_patch_is_the_same_file(patch, tmp_path):
    for name in ("a", "b"):
        write_patch(tmp_path / name, patch)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_change_outside_the_selection_makes_no_patch(example):
    graph, base, trained, found = example
    trained["first.weight"][0, 0, 0, 0] += 1
    with pytest.raises(InputError, match="outside the selected channels"):
        make_patch(found, graph, base, trained, origin=ORIGIN, plan_sha256=PLAN)


def test_a_patch_goes_on_its_base_and_off_itself_alone(example, patch):
    _, base, trained, _ = example
    other = clones(base)
    other["first.bias"][0] += 1
    cases: tuple[tuple[Callable[..., None], dict[str, torch.Tensor], str], ...] = (
        (apply_patch, other, "the patch is for another base: it goes on"),
        (remove_patch, other, "the patch is for another base: it comes off"),
        (apply_patch, trained, "the patch is on these weights already"),
        (remove_patch, base, "the patch is not on these weights"),
        (apply_patch, {}, "'first.weight' is not in the model"),
        (apply_patch, {**base, "second.bias": torch.zeros(7)}, r"\(6,\), torch.float32 in the p"),
        (
            apply_patch,
            {name: tensor.double() for name, tensor in base.items()},
            "torch.float64 in the model: the patch is for another base",
        ),
    )
    for change, tensors, told in cases:
        before = bits(tensors)
        with pytest.raises(InputError, match=told) as caught:
            change(patch, tensors, "p.safetensors")
        assert str(caught.value).startswith("p.safetensors: ")
        assert "\n" not in str(caught.value)
        assert bits(tensors) == before


def test_values_that_were_altered_are_not_left_in_the_model(example, patch):
    _, base, _, _ = example
    patch.changes[0].new.fill_(1)
    tensors = clones(base)
    with pytest.raises(InputError, match="the patch is damaged"):
        apply_patch(patch, tensors)
    assert bits(tensors) == bits(base)


def altered(data: bytes, tensors=None, header=lambda _document: None) -> bytes:
    """A patch file with other tensors, without those that are None, or another header."""

    def exchanged(found):
        return {name: t for name, t in (found | (tensors or {})).items() if t is not None}

    return signed.altered(data, exchanged, header)


def change(key, value):
    return lambda document: document["changes"][0].update({key: value})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: d[:-1], "is cut short, damaged"),
        (lambda d: d[: len(d) // 2], "is cut short, damaged"),
        (lambda d: d[:5], "is cut short, damaged"),
        (lambda _d: b"", "is cut short, damaged"),
        (lambda _d: b"\x80\x04" + b"hello" * 9, "is cut short, damaged"),
        (lambda _d: save({"a": torch.zeros(1)}), "has no header of this program"),
        (lambda d: altered(d, header=lambda h: h.update(schema="x/2")), "schema 'x/2'; 'costsim"),
        (lambda d: altered(d, header=lambda h: h.pop("model")), "model: field required"),
        (lambda d: altered(d, header=lambda h: h.update(more=1)), "more: extra inputs"),
        (lambda d: altered(d, header=lambda h: h.update(base_sha256="x")), "base_sha256: "),
        (lambda d: altered(d, header=change("shape", [8, 4])), "values of 'first.weight'"),
        (lambda d: altered(d, header=change("groups", 3)), "no such channels"),
        (lambda d: altered(d, header=change("axis", "x")), "changes.0.axis: "),
        (lambda d: altered(d, header=change("axis", None)), "channels/first.weight' does not"),
        (
            lambda d: altered(d, header=lambda h: h["changes"].append(h["changes"][0])),
            "'first.weight' is listed twice",
        ),
        (lambda d: altered(d, {"extra": torch.zeros(1)}), "'extra' does not belong"),
        (lambda d: altered(d, {"new/first.weight": None}), "'new/first.weight' is missing"),
        (lambda d: altered(d, {"new/first.weight": torch.zeros(3)}), "values of 'first.weight'"),
        (
            lambda d: altered(d, {"channels/first.weight": torch.tensor([1, 4, 8])}),
            "from 1 to 8; the parameter has 8 output channels",
        ),
        (
            lambda d: altered(d, {"channels/first.weight": torch.tensor([-1, 4, 6])}),
            "from -1 to 6; the parameter has 8",
        ),
        (
            lambda d: altered(d, {"channels/second.weight": torch.tensor([0, 8])}),
            "the parameter has 8 input channels",
        ),
        (
            lambda d: altered(d, {"channels/first.weight": torch.tensor([1, 4, 4])}),
            "repeats a channel",
        ),
        (
            lambda d: altered(d, {"channels/first.weight": torch.tensor([4, 1, 6])}),
            "is not ascending",
        ),
        (
            lambda d: altered(d, {"channels/first.weight": torch.tensor([1.0, 4.0, 6.0])}),
            "is no list of indices",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(patch, tmp_path, damage, told):
    path = tmp_path / "p.safetensors"
    write_patch(path, patch)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read_patch(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert told in text
    assert "\n" not in text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing: cannot be read"):
        read_patch(Path(tmp_path / "nothing"))
