"""A whole task learnt by the C of a plan and judged: what passes, and what must not."""

import json
from importlib import import_module

import numpy as np
import pytest
from by_default import by_default
from emulating import needs_emulator

from costsim.cli import main
from costsim.hardware.boards.learning_validation import EmittedTask, Learnt, judged, learn
from costsim.hardware.results.record import Comparison
from costsim.learning.training import TrainRequest
from costsim.learning.training.fine_tuning import prepare
from costsim.solving.planfile import read_plan


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """By the bits that were asked."""
    place = tmp_path_factory.mktemp("learning")
    found = {}
    for bits, name in (("32", "32"), ("8", "8")):
        path = found[name] = place / f"{name}.json"
        asked = ["plan", "--device", "stm32h743", "--resolution", "32", "--bits", bits]
        asked += ["--ways", "4", "--shots", "3", "--criterion", "l2_norm", "--solver", "greedy"]
        assert main([*asked, "--iterations", "5", "--out", str(path)]) == 0
        document = json.loads(path.read_text())
        document["recipe"]["learning_rate"] = 0.01
        path.write_text(json.dumps(document))
    return found


@pytest.mark.parametrize("bits", by_default(["32", "8"], ["8"]))
def test_a_task_is_learnt_as_well_as_in_pytorch_and_by_the_cores_own_bits(
    plans, bits, tmp_path, capsys
):
    needs_emulator()
    out = tmp_path / "validation.json"
    asked = ["validate", str(plans[bits]), "--on", "unicorn:cortex-m7", "--adaptation"]
    assert main([*asked, "small", "--steps", "3", "--validation", str(out)]) == 0
    told = capsys.readouterr().out
    assert "3 iterations over 12 images of 4 classes" in " ".join(told.split())
    rows = {one["quantity"]: one for one in json.loads(out.read_text())["comparisons"]}
    equal = rows["numbers equal here and on the core, bit by bit"]
    assert equal["predicted"] == equal["measured"] >= 8
    assert "accuracy on queries, PyTorch's in 32 bits beside it" in rows


@pytest.mark.parametrize("bits", by_default(["32", "8"], ["8"]))
def test_a_turned_sign_is_caught_by_what_is_learnt(plans, bits, monkeypatch):
    """The C climbs where it should descend, and is not worse by chance."""

    def outcome() -> tuple[Learnt, list[bool]]:
        run = prepare(TrainRequest(read_plan(plans[bits]), str(plans[bits]), queries=30))
        learnt = learn(EmittedTask.of(run, "plan").on_host(), run)
        return learnt, [passes(one) for one in judged(learnt)]

    learnt, ok = outcome()
    assert all(ok), learnt
    if bits == "32":
        assert learnt.losses == pytest.approx(learnt.losses_in_pytorch, rel=1e-3)
        assert (learnt.right != learnt.right_in_pytorch).sum() <= 1  # rounding, at a boundary
    emitting = import_module("costsim.c.emission.emit")
    source = emitting.kernel_source()
    turned = source.replace("*dx++ = (pull - part) * outside;", "*dx++ = (part - pull) * outside;")
    assert turned != source
    monkeypatch.setattr(emitting, "kernel_source", lambda: turned)
    learnt, ok = outcome()
    assert not all(ok), learnt


def test_a_plan_without_images_to_test_on_is_one_line(plans, tmp_path, capsys):
    needs_emulator()
    document = json.loads(next(iter(plans.values())).read_text())
    document["task"]["queries"] = 0
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(document))
    assert main(["validate", str(plan), "--on", "unicorn:cortex-m7", "--adaptation", "small"]) == 2
    assert f"{plan}: task.queries is 0, and what was learnt" in capsys.readouterr().err


def passes(comparison: Comparison) -> bool:
    return comparison.verdict != "outside"


def test_chance_is_what_the_two_answer_differently():
    """Three points of 1,000 queries that differ in those alone are more than chance; of 50 not."""
    right = np.ones(1000, np.bool_)
    worse = right.copy()
    worse[:60] = False
    losses = (2.0, 1.0)
    assert not passes(judged(Learnt(losses, losses, worse, right, 0.5))[1])
    assert passes(judged(Learnt(losses, losses, right, worse, 0.5))[1])
    few = right[:50].copy()
    few[:2] = False
    assert passes(judged(Learnt(losses, losses, few, right[:50], 0.5))[1])
    for falls in ((2.0, 2.1), (2.0, float("nan")), (2.0, 1.6)):
        assert not all(map(passes, judged(Learnt(falls, losses, right, right, 0.5))))
    assert all(map(passes, judged(Learnt((2.0, 1.4), losses, right, right, 0.5))))
    assert all(map(passes, judged(Learnt((2.0, 0.1), losses, right, right, 0.5))))
