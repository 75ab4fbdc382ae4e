"""Parameters that their author froze, and layers that a person names: what is a candidate."""

import json
import sys
from pathlib import Path

import pytest
import torch
from costsim.solvers import SOLVERS, make_solver
from costsim.solvers.exact import Exact
from frozen_network import ADAPTED, adapted

from costsim import sparsify
from costsim.base.errors import InputError
from costsim.cli import main
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.learning.training.backbone import Backbone
from costsim.models.networks.build import build
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import capture
from costsim.pricing.cost import full_backward_macs, mac_cost
from costsim.problem.axes import SCORED_AXES
from costsim.problem.budget import Budget
from costsim.problem.importance import inspected_layers, left_frozen
from costsim.problem.named_layers import NamedLayers
from costsim.problem.problem import Problem
from costsim.run.criteria import CRITERIA
from costsim.solving.planfile import read_plan
from costsim.solving.solve import solve
from costsim.studies.engine import parse_study
from costsim.studies.solvers import SolverStudies
from costsim.studies.solvers.cells import Settings, SolverStudy


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph() -> LayerGraph:
    return capture(adapted(), images()).graph


def trained(plan: UpdatePlan, graph: LayerGraph) -> set[str]:
    """Names of the parameters that a plan updates."""
    layers = graph.layers
    return {p.name for s in plan.subsets if (p := layers[s.layer].weight)} | {
        p.name for name in plan.biases if (p := layers[name].bias)
    }


def test_everything_is_what_is_not_frozen(graph: LayerGraph) -> None:
    assert trained(UpdatePlan.full(graph), graph) == ADAPTED
    frozen = {parameter.name for parameter in graph.frozen}
    assert frozen == {name for name, _ in adapted().named_parameters()} - ADAPTED
    assert inspected_layers(graph) == ("layer4.0.conv2", "fc")


def test_a_frozen_graph_computes_what_the_other_does(graph: LayerGraph) -> None:
    free = capture(adapted().requires_grad_(True), images()).graph
    assert not free.frozen
    assert graph.with_frozen(()) == free
    assert free.with_frozen({p.name for p in graph.frozen}) == graph
    plan = UpdatePlan.full(graph)
    one, other = (compile_program(g, plan, TrainingStep(batch=2)) for g in (graph, free))
    assert mac_cost(one) == mac_cost(other)
    assert full_backward_macs(graph, TrainingStep(batch=2)) == mac_cost(other).backward


def test_frozen_is_kept_in_json_and_absent_from_older_graphs(graph: LayerGraph) -> None:
    document = json.loads(json.dumps(graph.to_json()))
    assert LayerGraph.from_json(document) == graph
    free = graph.with_frozen(())
    assert "frozen" not in json.dumps(free.to_json())
    assert LayerGraph.from_json(free.to_json()) == free


@pytest.mark.parametrize("axis", SCORED_AXES)
def test_no_criterion_scores_what_is_frozen(graph: LayerGraph, axis: str) -> None:
    traced = capture(adapted(), images())
    axes = SCORED_AXES[axis]
    for name in ("fisher", "weight_gradient", "l2_norm"):
        importance = CRITERIA[name].score(
            graph, traced.tensors, images().numpy(), torch.tensor([0, 1]).numpy(),
            layers=inspected_layers(graph, None, axes=axes), axes=axes,
        )  # fmt: skip
        for entry in importance.channels:
            layer = graph.layers[entry.layer]
            owner = layer.bias if entry.axis == "bias" else layer.weight
            assert owner is not None
            assert owner.name in ADAPTED


@pytest.mark.parametrize("with_bias", [False, True])
def test_no_solver_updates_what_is_frozen(graph: LayerGraph, with_bias: bool) -> None:
    importance = CRITERIA["random"].score(graph, {}, layers=inspected_layers(graph, None))
    problem = Problem(graph, TrainingStep(batch=2), importance, Budget(), with_bias=with_bias)
    for name in SOLVERS:
        if name in ("brute-force", "sparse-update"):  # tiny models, built-in networks
            continue
        plan = solve(problem, make_solver(name)).plan
        assert plan is not None
        assert trained(plan, graph) <= ADAPTED, name
    assert solve(problem, Exact()).plan is not None


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (UpdatePlan((ChannelSubset("conv1", "output", (0,)),)), "'conv1.weight'"),
        (UpdatePlan((ChannelSubset("fc", "output", (0,)),), frozenset({"layer1.0.bn1"})), "bn1.b"),
    ],
)
def test_a_plan_that_updates_it_is_refused(plan: UpdatePlan, named: str) -> None:
    with pytest.raises(InputError, match=rf"{named}.* is frozen by the model's author"):
        sparsify(adapted(), plan, images())


def test_training_the_rest_is_what_autograd_does() -> None:
    model = adapted().double()
    x = images().double()
    model(x).square().sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    sparse = sparsify(model, UpdatePlan.full(capture(model, x).graph), x)
    sparse(x).square().sum().backward()
    found = {name: p.grad for name, p in sparse.selected.named_parameters()}
    assert found.keys() == wanted.keys() == ADAPTED
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_built_in_networks_are_frozen_as_any() -> None:
    network = build("mcunet-5fps", seed=0)
    network.requires_grad_(False)
    network.get_submodule("blocks.3.expand").requires_grad_(True)
    backbone = Backbone(network, (3, 64, 64), name="mine")
    assert inspected_layers(backbone.graph(4)) == ("blocks.3.expand",)
    assert "frozen by its author" in left_frozen(backbone.graph(1))
    network.requires_grad_(False)
    with pytest.raises(InputError, match=r"no linear layer to update: .* frozen by its"):
        inspected_layers(Backbone(network, (3, 64, 64), name="mine").graph(1))


# By name.


@pytest.fixture(scope="module")
def network() -> LayerGraph:
    return architecture_graph("mcunet-5fps", batch=1, resolution=64)


def test_patterns_choose_and_leave_out(network: LayerGraph) -> None:
    every = inspected_layers(network, None)
    named = NamedLayers(("blocks.1*.expand", "blocks.3.project"), ("blocks.11.*",))
    found = inspected_layers(network, None, named=named)
    assert found == tuple(
        name
        for name in every
        if name == "blocks.3.project"
        or (name.startswith("blocks.1") and name.endswith(".expand") and "blocks.11." not in name)
    )
    assert inspected_layers(network, 2, named=named) == found[-2:]
    assert inspected_layers(network, None, named=NamedLayers()) == every


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (NamedLayers(("block.3.expand",)), "matches no layer of the model; nearest are blocks.3.e"),
        (NamedLayers((), ("steam",)), "exclude 'steam' matches no layer .* nearest are stem"),
        (NamedLayers(("stem",), ("st*",)), "layers stem without st.: none is left"),
    ],
)
def test_patterns_that_say_nothing_are_refused(
    network: LayerGraph, named: NamedLayers, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        inspected_layers(network, None, named=named)


def test_a_pattern_for_what_cannot_be_chosen_says_so(graph: LayerGraph) -> None:
    with pytest.raises(InputError, match=r"'bn1' matches bn1 alone, which cannot be chosen"):
        inspected_layers(graph, None, named=NamedLayers(("bn1",)))
    with pytest.raises(InputError, match=r"conv1 alone, which cannot .* frozen by the model's"):
        inspected_layers(graph, None, named=NamedLayers(("conv1",)))


def test_a_part_in_brackets_is_a_name() -> None:
    named = NamedLayers(("attn.in_proj[0:8]",))
    assert named.means("attn.in_proj[0:8]")
    assert not named.means("attn.in_proj[8:16]")


def test_a_study_takes_them_and_older_cells_keep_their_keys() -> None:
    def settings(given: dict[str, object]) -> Settings:
        study = parse_study({"settings": given}, "study", SolverStudies(make_solver))
        assert isinstance(study, SolverStudy)
        return study.settings

    assert settings({"layers": "stem"}) == Settings(layers=("stem",), inspect=None)
    assert settings({"layers": ["stem", "mix"], "inspect": 1}).inspect == 1
    assert settings({"exclude": ["stem"]}).inspect == Settings().inspect
    plain = parse_study({}, "study", SolverStudies(make_solver)).cells()[0]
    other = parse_study(
        {"settings": {"exclude": ["stem"]}}, "study", SolverStudies(make_solver)
    ).cells()[0]
    assert plain.shared_key != other.shared_key
    assert plain.problem_key != other.problem_key
    assert "layers" not in json.dumps(plain._scored)


# Through the command.

MODELS = """
import frozen_network
def adapted(): return frozen_network.adapted()
"""
TASK = ("--resolution", "32", "--ways", "2", "--shots", "2")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "frozen_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    monkeypatch.delitem(sys.modules, "frozen_models", raising=False)
    return tmp_path


def test_plan_leaves_them_out_and_says_how_many(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = mine / "plan.json"
    arguments = ["--device", "pi-zero-2", "--model", "frozen_models:adapted", *TASK]
    assert main(["plan", *arguments, "--axis", "output+bias", "--out", str(plan)]) == 0
    frozen = sum(p.numel() for p in adapted().parameters() if not p.requires_grad)
    assert f"note: {frozen:,} of " in capsys.readouterr().err
    file = read_plan(plan)
    assert file.candidates is not None
    assert file.candidates.frozen_parameters == frozen
    traced = capture(adapted(), images()[:1])
    assert trained(file.plan, traced.graph) <= ADAPTED
    assert file.to_json() == type(file).from_json(file.to_json()).to_json()


@pytest.mark.usefixtures("mine")
def test_plan_takes_patterns_and_records_them(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--device", "pi-zero-2", "--model", "mcunet-5fps", *TASK, "--json"]
    chosen = ["--layers", "blocks.1?.*", "--exclude", "*.project"]
    assert main([*arguments, *chosen]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["candidates"] == {
        "layers": ["blocks.1?.*"], "exclude": ["*.project"], "frozen_parameters": 0,
    }  # fmt: skip
    names = {layer["name"] for layer in document["importance"]["layers"]}
    assert len(names) > 6
    assert all(n.startswith("blocks.1") and not n.endswith("project") for n in names)
    assert {layer["name"] for layer in document["layers"]} <= names


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--layers", "blocks.99"), "matches no layer of the model"),
        (("--exclude", "mix", "--solver", "full"), "the solver full looks at no score"),
    ],
)
def test_plan_refuses_in_one_line(
    mine: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    arguments = ["plan", "--device", "pi-zero-2", "--model", "mcunet-5fps", *TASK]
    assert main([*arguments, *more, "--out", "plan.json"]) == 2
    told = capsys.readouterr()
    assert message in told.err.splitlines()[-1]
    assert not (mine / "plan.json").exists()
