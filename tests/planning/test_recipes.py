"""Where a network is cut and what is kept: the cheapest of all ways, by trying all of them."""

from dataclasses import replace

import pytest
from graphs import GraphBuilder, graphs, plans
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.base.units import format_bytes
from costsim.cli import main
from costsim.device import load_device
from costsim.ir.cuts import updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import Phase, Scored, Task, frozen_cuts
from costsim.ir.recipe import CACHES, Recipe
from costsim.models.networks.graph import architecture_graph
from costsim.planning.recipes import choose_cache, unkept
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import transfer_seconds
from costsim.problem.budget import Budget
from costsim.problem.task_budget import TaskBudget

PI, CHIP = load_device("pi-zero-2"), load_device("stm32h743")
NET = architecture_graph("mcunet-5fps", batch=1, resolution=64)
LATE = UpdatePlan((), frozenset({"blocks.12.expand", "blocks.13.project"}))


def asked(graph=NET, plan=LATE, device=PI, samples=10, **given_):
    return Asked(graph, plan, Task(samples, 2), None, device, **given_)


@settings(max_examples=30)
@given(st.data())
def test_the_choice_is_the_best_of_all(data):
    graph = data.draw(graphs())
    plan = data.draw(plans(graph))
    samples = graph.batch * data.draw(st.integers(1, 3))
    iterations, copies = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 8))
    recipe = Recipe(iterations=iterations, copies=copies)
    places = data.draw(st.sampled_from([("ram",), ("storage",), ("ram", "storage")]))
    here = asked(graph, plan, samples=samples)
    ways = [recipe] + [
        replace(recipe, cut=cut, cache_in=place)
        for cut in frozen_cuts(graph, updated_layers(plan))
        for place in places
        if plan.subsets or plan.biases
    ]
    costs = [here.cost(way) for way in ways]
    room = data.draw(st.sampled_from([None, *map(held_with_cache, costs)]))
    allowed = [
        cost.latency_s.value
        for way, cost in zip(ways, costs, strict=True)
        if way.cache_in != "ram" or room is None or held_with_cache(cost) <= room
    ]
    limited = replace(here, budget=Budget(memory_bytes=room))
    found = choose_cache(limited, recipe, ("nothing", *places))
    assert found.cost.latency_s.value == pytest.approx(min(allowed))
    assert found.uncached.latency_s.value == costs[0].latency_s.value


def held_with_cache(cost):
    """The most bytes of the phases in which a cache is there."""
    phases = (Phase.CACHING, Phase.MEANS, Phase.TRAINING)
    return max(phase.peak_bytes for phase in cost.phases if phase.phase in phases)


def test_what_is_kept_goes_where_there_is_room():
    recipe = Recipe(iterations=40)
    free = choose_cache(asked(), recipe, CACHES)
    assert free.recipe.cache_in == "ram"  # no waiting for a card
    tight = asked(budget=Budget(memory_bytes=free.cost.peak_bytes - 1))
    assert choose_cache(tight, recipe, CACHES).recipe.cache_in == "storage"
    assert choose_cache(tight, recipe, ("nothing", "ram")).recipe.cache_in == "nothing"
    assert choose_cache(asked(), recipe, ("nothing",)).recipe.cut is None
    # a chip without a card has nowhere to keep it but its RAM
    with pytest.raises(InputError, match="stm32h743 has no memory of kind storage"):
        choose_cache(asked(device=CHIP), recipe, ("storage",))


def test_an_earlier_cut_is_taken_where_the_last_ones_values_have_no_room():
    g = GraphBuilder()
    narrow = g.conv(g.input(1, 3, 8, 8), 1, layer="narrow")
    wide = g.conv(narrow, 64, layer="wide")
    g.conv(wide, 4, layer="trained")
    graph, plan = g.graph(), UpdatePlan((), frozenset({"trained"}))
    small, large = 8 * 8 * 4, 64 * 8 * 8 * 4
    recipe, values = Recipe(copies=4, iterations=40), 10 * (1 + 4)
    free = choose_cache(asked(graph, plan), recipe, ("ram",))
    assert free.recipe.cut == wide
    room = free.cost.peak_bytes - values * (large - small)
    tight = asked(graph, plan, budget=Budget(memory_bytes=room + large))
    assert choose_cache(tight, recipe, ("ram",)).recipe.cut == narrow


def test_a_card_that_is_full_keeps_nothing():
    card = PI.memory["sd_card"]
    small = card.model_copy(update={"size": card.size.model_copy(update={"value": 200_000.0})})
    full = PI.model_copy(update={"memory": {**PI.memory, "sd_card": small}})
    assert choose_cache(asked(device=full), Recipe(), ("storage",)).recipe.cut is None


def test_new_copies_in_every_iteration_are_not_kept():
    assert choose_cache(asked(), Recipe(copies=0), CACHES).recipe.cut is None
    plain = choose_cache(asked(), Recipe(augment=False, copies=0), CACHES)
    assert plain.recipe.cut is not None  # the same images again


def why_not(there, recipe, places):
    """What is said where nothing is kept."""
    return unkept(there, choose_cache(there, recipe, places), places)


def test_nothing_kept_where_somebody_asked_for_it_is_said_with_the_reason():
    here = asked()
    least = min(
        here.forward_cost(Recipe(cut=cut, cache_in="storage")).stored_bytes["storage"]
        for cut in frozen_cuts(here.graph, updated_layers(here.plan))
    )
    card = PI.memory["sd_card"]
    size = 0.99 * least * card.size.value / PI.storage_bytes
    small = card.model_copy(update={"size": card.size.model_copy(update={"value": size})})
    full = asked(device=PI.model_copy(update={"memory": {**PI.memory, "sd_card": small}}))
    for places in (("ram",), ("storage",), CACHES, ("nothing",)):
        assert why_not(asked(), Recipe(), places) is None
    assert why_not(full, Recipe(), CACHES) is None  # nobody asked for that very place
    told = why_not(full, Recipe(), ("storage",))
    assert f"with the images it takes {format_bytes(least)} or more" in told
    assert f"room for {format_bytes(full.device.storage_bytes)}" in told
    limited = replace(asked(), task_budget=TaskBudget(storage_bytes=least - 1))
    assert f"room for {format_bytes(least - 1)}" in why_not(limited, Recipe(), ("storage",))
    enough = replace(asked(), task_budget=TaskBudget(storage_bytes=least))
    assert why_not(enough, Recipe(iterations=40), ("storage",)) is None
    assert "no image is shown twice" in why_not(asked(), Recipe(copies=0), ("ram",))
    tight = asked(budget=Budget(memory_bytes=1))
    assert "no room for it beside what a step takes" in why_not(tight, Recipe(), ("ram",))
    once = Recipe(iterations=1)
    assert "would take longer" in why_not(asked(), once, ("storage",))
    first = UpdatePlan((), frozenset({next(iter(asked().graph.layers))}))
    assert "all is computed anew" in why_not(asked(plan=first), Recipe(), ("ram",))


def test_an_adaptation_at_a_quarter_of_the_published_recipe():
    """What the planner and the evidence allow together, on the board of the paper."""
    for name in ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"):
        net = architecture_graph(name, batch=1)
        layers = [n for n in net.layers if net.selectable_channels(n, "output")][-12:]
        here = asked(
            net, UpdatePlan((), frozenset(layers)), samples=50, scored=Scored(tuple(layers))
        )
        published = here.cost(Recipe())
        sparing = Recipe(image_interval=2, means_interval=5, copies=4)
        found = choose_cache(here, sparing, ("nothing", "storage"))
        assert found.cost.latency_s.value < published.latency_s.value / 4
        assert found.cost.energy_j.value < published.energy_j.value / 4
        assert found.cost.peak_bytes <= published.peak_bytes


def test_a_plan_says_what_the_whole_has_no_room_for(capsys):
    small = ["--model", "mbv2-w0.35", "--resolution", "64", "--inspect", "4"]
    assert main(["plan", "--device", "stm32f746", *small, "--bits", "8"]) == 0
    printed = capsys.readouterr()
    assert "support images take 906 KiB of flash, and stm32f746 has" in printed.err
    assert "does not fit" in printed.out
    few = ["--ways", "2", "--shots", "2"]
    assert main(["plan", "--device", "stm32f746", *small, *few, "--bits", "8"]) == 0
    assert "whole adaptation does not fit" not in capsys.readouterr().err


def test_places_that_a_device_lacks():
    with pytest.raises(InputError, match="no memory of kind storage"):
        transfer_seconds(CHIP, "storage", 1, "read")
    with pytest.raises(InputError, match="write_bandwidth"):
        transfer_seconds(CHIP, "flash", 1, "write")
    assert transfer_seconds(CHIP, "flash", 10**6, "read").value == 0
    assert transfer_seconds(PI, "storage", 20 * 10**6, "read").value == pytest.approx(1)
