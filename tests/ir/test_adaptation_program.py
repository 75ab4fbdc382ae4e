"""The adaptation program: how often what is run, what outlives a run, and what it holds."""

import pytest
from graphs import chain, graphs, plans
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.ir.cuts import between, cuts, updated_layers
from costsim.ir.operators import elements
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Category, compile_program, memory_timeline
from costsim.ir.program.adaptation import (
    Phase,
    Scored,
    Task,
    compile_adaptation,
    frozen_cuts,
)
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph

NET = architecture_graph("mcunet-5fps", batch=1, resolution=32)
LATE = UpdatePlan((), frozenset({"blocks.12.expand", "blocks.13.project"}))
TASK = Task(samples=12, ways=3)
RECIPE = Recipe(iterations=10, copies=4, image_interval=2, means_interval=4)


def test_how_often_what_is_run_by_hand():
    scored = Scored(("blocks.12.expand", "blocks.13.project"))
    plain = compile_adaptation(NET, LATE, RECIPE, TASK, scored=scored)
    times = {one.phase: one.times for one in plain.phases}
    # means at iterations 1, 5 and 9 and of the trained network, of 12 images each
    assert times == {
        Phase.SCORING: 12,
        Phase.MEANS: (3 + 1) * 12,
        Phase.TRAINING: 10,
        Phase.ANSWERING: 1,
    }
    assert plain[Phase.TRAINING].program.step == TrainingStep(6, 1, "adam")
    cut = frozen_cuts(NET, updated_layers(LATE))[-1]
    kept = Recipe(**{**RECIPE.to_json(), "cut": cut, "cache_in": "storage"})
    cached = compile_adaptation(NET, LATE, kept, TASK, scored=scored, images_in="storage")
    assert {one.phase: one.times for one in cached.phases} == {
        **times,
        Phase.CACHING: 12 * (1 + 4),
    }
    image, value = elements(NET[NET.input].shape), 4 * elements(NET[cut].shape)
    assert cached[Phase.SCORING].read_bytes == {"storage": 12 * image}
    assert cached[Phase.CACHING].read_bytes == {"storage": 60 * image}
    assert cached[Phase.CACHING].written_bytes == {"storage": 60 * value}
    assert cached[Phase.MEANS].read_bytes == {"storage": 48 * value}
    assert cached[Phase.TRAINING].read_bytes == {"storage": 60 * value}
    assert cached.stored_bytes("storage") == 12 * image + 60 * value
    assert plain.stored_bytes("storage") == 0


def test_what_outlives_a_run_by_hand():
    found = compile_adaptation(NET, LATE, RECIPE, TASK, scored=Scored(("blocks.12.expand",)))
    sizes = {one.name: one.bytes for one in found.lasting}
    channels, biases = (
        NET.channels("blocks.12.expand", "output"),
        [NET.layers[name].bias.size for name in LATE.biases],
    )
    assert sizes == {
        "support images": 12 * 3 * 32 * 32,
        "class means": 3 * 4 * elements(NET[NET.output].shape),
        "scores": 4 * channels,
        "updated weights": 4 * sum(biases),
        "optimizer state": 2 * 4 * sum(biases),
    }
    training = found[Phase.TRAINING]
    own = memory_timeline(training.program).peak_bytes
    assert found.peak_bytes(training) == own + sizes["support images"] + sizes["class means"]
    assert found.peak_phase.phase is max(found.phases, key=found.peak_bytes).phase


def test_logits_need_no_class_means():
    found = compile_adaptation(NET, LATE, Recipe(loss="cross_entropy"), TASK)
    assert Phase.MEANS not in {one.phase for one in found.phases}
    assert "class means" not in {one.name for one in found.lasting}


def test_steps_over_fewer_images_than_an_iteration_shows():
    found = compile_adaptation(NET, LATE, RECIPE, TASK, step=TrainingStep())
    assert found[Phase.TRAINING].times == 10 * 6
    assert found[Phase.TRAINING].program.step == TrainingStep()


@settings(max_examples=60)
@given(st.data())
def test_a_cut_takes_the_frozen_part_out_and_nothing_else(data):
    graph = data.draw(graphs())
    plan = data.draw(plans(graph))
    possible = frozen_cuts(graph, updated_layers(plan))
    assert set(possible) < set(cuts(graph)) or possible == ()
    if not possible or not (plan.subsets or plan.biases):
        return
    cut = data.draw(st.sampled_from(possible))
    recipe = Recipe(iterations=3, copies=2, cut=cut, cache_in="ram")
    task = Task(2 * graph.batch, 2)
    cached = compile_adaptation(graph, plan, recipe, task)
    plain = compile_adaptation(graph, plan, Recipe(iterations=3, copies=2), task)
    ours, whole = cached[Phase.TRAINING].program, plain[Phase.TRAINING].program

    def macs(program, *directions):
        return sum(op.macs for op in program.operations if op.direction in directions)

    backward = ("input_gradient", "weight_gradient")
    assert macs(ours, *backward) == macs(whole, *backward)
    frozen = between(graph, graph.input, cut).forward_macs()
    assert macs(ours, "forward") == macs(whole, "forward") - frozen
    assert macs(cached[Phase.CACHING].program, "forward") == frozen
    assert memory_timeline(ours).peak_bytes <= memory_timeline(whole).peak_bytes
    for category in (Category.UPDATED_WEIGHTS, Category.OPTIMIZER, Category.WEIGHT_GRADIENT):
        assert sum(b.bytes for b in ours.buffers if b.category is category) == sum(
            b.bytes for b in whole.buffers if b.category is category
        )
    held = next(one for one in cached.lasting if one.name == "cached values")
    assert held.bytes == task.samples * 3 * elements(graph[cut].shape[1:]) * 4


@pytest.mark.parametrize("cut", ["elsewhere", "blocks.13.project"])
def test_a_cut_that_is_none_or_too_late_is_refused(cut):
    recipe = Recipe(cut=cut, cache_in="ram")
    with pytest.raises(InputError, match=f"cut '{cut}'"):
        compile_adaptation(NET, LATE, recipe, TASK)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"cut": "x"}, "come together"),
        ({"cache_in": "ram"}, "come together"),
        ({"cut": "x", "cache_in": "ram", "copies": 0}, "nothing is shown twice"),
        ({"image_interval": 0}, "image interval is 0"),
        ({"means_interval": 10**6}, "means interval is 1000000; at most"),
        ({"loss": "mean"}, "loss 'mean'"),
        ({"loss": "cross_entropy", "means_interval": 5}, "takes no class means"),
        ({"cache_in": "cloud"}, "cache in 'cloud'"),
    ],
)
def test_recipes_that_contradict_themselves(given_, said):
    with pytest.raises(InputError, match=said):
        Recipe(**given_)


def test_a_task_has_images():
    with pytest.raises(InputError, match="samples is 0"):
        Task(0, 2)


def test_the_program_of_a_step_is_that_of_training():
    graph = chain()
    plan = UpdatePlan((), frozenset({list(graph.layers)[-1]}))
    recipe = Recipe(iterations=1, optimizer="sgd")
    found = compile_adaptation(graph, plan, recipe, Task(graph.batch, 2))
    step = TrainingStep(graph.batch)
    assert found[Phase.TRAINING].program == compile_program(graph, plan, step)
