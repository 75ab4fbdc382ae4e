"""Plan files: what is written is read back, and nothing else is."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from graphs import chain, graphs, plans, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_files import SCORE, chain_example, drawings, example

from costsim.base.errors import InputError
from costsim.device import load_device, shipped_devices
from costsim.ir.program import compile_program
from costsim.ir.program.adaptation import Phase
from costsim.ir.recipe import Loss, Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import full_backward_macs, price
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance
from costsim.problem.solution import Solution, Status
from costsim.solving.planfile import ModelRecord, PlanFile, plan_file, read_plan, write_plan
from costsim.solving.planfile.records import PhaseName


def test_a_loss_is_one_of_two_and_older_files_do_not_say() -> None:
    document = chain_example(loss="cross_entropy").to_json()
    assert document["loss"] == "cross_entropy"
    assert PlanFile.from_json(document).loss == "cross_entropy"
    with pytest.raises(InputError, match=r"plan: loss.*prototype.*cross_entropy"):
        PlanFile.from_json({**document, "loss": "hinge"})
    del document["loss"]
    assert PlanFile.from_json(document).loss is None
    assert "loss" not in PlanFile.from_json(document).to_json()


@settings(max_examples=30)
@given(st.data())
def test_what_is_written_is_read_back(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    plan, step = data.draw(plans(graph)), data.draw(steps(graph))
    device = data.draw(st.sampled_from(shipped_devices()))
    losses: tuple[Loss | None, ...] = (*get_args(Loss), None)
    loss = data.draw(st.sampled_from(losses))
    file = example(
        graph, plan, step, device_name=device, seed=data.draw(st.integers(0, 2**63 - 1)), loss=loss
    )
    document = file.to_json()
    assert PlanFile.from_json(json.loads(json.dumps(document))) == file
    assert PlanFile.from_json(document).to_json() == document
    named = [layer["name"] for layer in document["layers"]]
    assert named == [name for name in graph.layers if name in named]


def test_predicted_is_the_price_and_more() -> None:
    graph, file = chain(), chain_example()
    cost = price(compile_program(graph, file.plan, file.step), load_device("jetson-nano"))
    predicted = file.to_json()["predicted"]
    expected = cost.to_json("peak")
    for key in ("moved_bytes", "latency_s", "energy_j", "energy_interval_j", "swap_s", "fits"):
        assert predicted[key] == expected[key]
    for part in ("memory", "macs"):
        assert predicted[part] | expected[part] == predicted[part]
    assert predicted["macs"]["full_backward"] == full_backward_macs(graph, file.step)
    times = {one["phase"]: one["times"] for one in predicted["adaptation"]["phases"]}
    assert times == {"scoring": 7, "class means": 41 * 7, "training": 40 * 7, "answering": 1}


def test_gains_of_chosen_channels() -> None:
    file = chain_example()
    (chosen,) = file.plan.subsets
    assert file.importance.gain(chosen.layer, "output") == 2 * SCORE
    assert file.importance.gain(chosen.layer, "input") == 0
    assert file.importance.gain("elsewhere", "output") is None


def test_file_round_trip(tmp_path: Path) -> None:
    path, file = tmp_path / "plan.json", chain_example()
    write_plan(path, file)
    assert read_plan(path) == file
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_infeasible_has_no_prediction() -> None:
    graph = chain()
    solution = Solution("ilp", None, None, Status.INFEASIBLE, None, None, 0.1, "too little memory")
    file = plan_file(
        model=ModelRecord(name="net", spec="net", resolution=4, provenance="from seed 0"),
        graph=graph,
        step=TrainingStep(),
        task=drawings(),
        recipe=Recipe(optimizer="sgd"),
        budget=Budget(memory_bytes=1),
        solution=solution,
        importance=Importance("random", ()),
        seed=0,
        loss=None,
    )
    document = file.to_json()
    assert document["predicted"] is None
    assert document["layers"] == []
    assert document["solver"]["reason"] == "too little memory"
    assert PlanFile.from_json(document) == file


Change = Callable[[dict[str, Any]], None]


def at(*keys: str | int, value: Any) -> Change:
    """Sets one value of a document."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def without(*keys: str) -> Change:
    """Takes one key out of a document."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at("schema", value="costsim.plan/3"), "schema: 'costsim.plan/3' is unknown"),
        (at("schema", value="costsim.plan/1"), "make the plan anew with costsim plan"),
        (without("recipe"), "recipe: missing"),
        (at("recipe", "cut", value="relu1"), "recipe: a cut and a place"),
        (at("recipe", "optimizer", value="lion"), "recipe.optimizer: 'lion': input should be"),
        (at("task", "samples", value=-1), "task.samples: -1"),
        (without("schema"), "schema: is missing; allowed is costsim.plan/2"),
        (without("layers"), "layers: missing"),
        (without("solver", "gap"), "solver.gap: missing"),
        (at("bugdets", value={}), "bugdets: unknown key; did you mean 'budgets'?"),
        (at("predicted", "macs", "flops", value=1), "predicted.macs.flops: unknown key"),
        (at("model", value="net"), "model: 'net' is not a mapping"),
        (at("predicted", "memory", "peak_bytes", value=1.5), "predicted.memory.peak_bytes: 1.5"),
        (at("predicted", "memory", "peak_bytes", value=-1), "predicted.memory.peak_bytes: -1"),
        (at("predicted", "energy_j", value=float("nan")), "predicted.energy_j: nan"),
        (at("predicted", "latency_s", "low", value=1e9), "predicted.latency_s: low 1e+09"),
        (at("seed", value=True), "seed: True"),
        (at("step", "batch", value="3"), "step.batch: '3'"),
        (at("step", "batch", value=0), "step: batch is 0; at least 1 is needed"),
        (at("step", "bits", "weights", value=7), "step.bits: bits.weights is 7"),
        (at("budgets", "accounting", value="best"), "budgets: accounting 'best'"),
        (at("budgets", "macs", value=-5), "budgets: budget macs is -5"),
        (at("layers", 0, "channels", value=[1, 1]), "a channel is listed twice"),
        (at("layers", 0, "channels", value=[-1]), "layers.0.channels.0: -1"),
        (at("layers", 0, "channels", value=[]), "layers.0: axis and channels come together"),
        (at("layers", 0, "axis", value="depth"), "layers.0.axis: 'depth'"),
        (at("layers", 1, "bias", value=False), "layers.1: updates neither"),
        (at("layers", 0, "name", value="convolution5"), "layers: 'convolution5' is listed twice"),
        (at("layers", value={}), "layers: "),
        (at("predicted", value=None), "predicted: is null, but the solver's status is optimal"),
        (at("solver", "status", value="perfect"), "solver.status: 'perfect'"),
        (at("solver", "status", value="infeasible"), "predicted: must be null"),
    ],
)
def test_a_damaged_plan_is_one_clear_line(tmp_path: Path, change: Change, said: str) -> None:
    document = copy.deepcopy(chain_example().to_json())
    change(document)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_plan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[]", "null", "3", '"plan"'])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match="a mapping with the keys of a plan is needed"):
        read_plan(path)


def test_a_plan_is_a_value() -> None:
    file = chain_example()
    assert replace(file, seed=1) != file
    assert chain_example() == file


def test_a_document_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"deep\.json: is nested too deeply to be read"):
        read_plan(path)


@pytest.mark.parametrize("key", ["phase", "part"])
def test_words_that_are_shown_are_known_words(key: str) -> None:
    """An unknown one is refused where it is read, not where its words are looked up."""
    document = chain_example().to_json()
    whole = document["predicted"]["adaptation"]
    other = {"part": "copies", "value": 4, "latency_s": None, "energy_j": None}
    whole["alternatives"] = [other]
    assert PlanFile.from_json(document).predicted is not None
    {"phase": whole["phases"][0], "part": other}[key][key] = "zzz"
    with pytest.raises(InputError, match=f"{key}.*zzz"):
        PlanFile.from_json(document)


def test_every_phase_has_a_name_in_the_file() -> None:
    assert get_args(PhaseName) == tuple(map(str, Phase))
