"""Models of tokens: whole numbers that choose rows of a table."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import costsim
from costsim.base.errors import InputError, UnsupportedOperator
from costsim.cli import main
from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Constant, Input, Scale
from costsim.ir.operators.sampling import Embedding
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.models.inputs import input_shape_of, vocabulary_of
from costsim.models.loading import load_given
from costsim.models.tracing.capture import capture
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

VOCABULARY, LENGTH = 30, 6

SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, tokens=30, length=6, width=8, padding=None):
        super().__init__()
        self.input_shape, self.input_tokens = (length,), tokens
        self.tokens = nn.Embedding(tokens, width, padding_idx=padding)
        self.places = nn.Embedding(length, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.block(h).mean(1))
"""


def made(**arguments: int) -> nn.Module:
    """The network of the script, in evaluation mode."""
    scope: dict[str, type[nn.Module]] = {}
    exec(SCRIPT, scope)  # the text that a person's file has
    torch.manual_seed(0)
    return scope["Net"](**arguments).eval()


def drawn(batch: int = 3) -> Tensor:
    """Samples with some tokens twice."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY // 2, (batch, LENGTH), generator=generator)


@pytest.mark.parametrize("padding", [None, 13])
def test_every_gradient_is_autograds(padding: int | None) -> None:
    model = made() if padding is None else made(padding=padding)
    model.double()
    tokens = drawn()
    assert (tokens == 13).any()
    graph, tensors = (traced := capture(model, tokens)).graph, traced.tensors
    assert graph[graph.input].shape == tuple(tokens.shape)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(3, update="deferred"))
    executor = Executor(program, tensors)
    state = executor.begin()
    output = executor.forward(state, tokens.double())
    assert torch.allclose(output, model(tokens), atol=1e-12)
    executor.backward(state, 2 * output.detach())
    found = executor.gradients(state)
    model(tokens).square().sum().backward()
    owners = {layer: graph.layers[layer] for _, layer in executor.selections}
    assert {"tokens.weight", "places.weight", "head"} <= set(owners)
    for atom, selection in executor.selections.items():
        owner = owners[atom[1]].bias if atom[0] == "bias" else owners[atom[1]].weight
        assert owner is not None
        wanted = model.get_parameter(owner.name).grad
        assert wanted is not None
        assert torch.allclose(found[atom], selection.read(wanted), atol=1e-12), owner.name


def test_whole_numbers_and_the_same_in_floating_point_are_one_graph() -> None:
    model, tokens = made(), drawn()
    loaded = load_given(model, batch=3)
    assert loaded.example_input.shape == (3, LENGTH)
    assert capture(model, tokens).graph == capture(loaded.module, loaded.example_input).graph
    assert torch.equal(loaded.module(tokens.float()), model(tokens))


def test_a_sparse_module_takes_tokens_and_gives_the_model_back() -> None:
    model, tokens = made(), drawn()
    dense = made()
    dense.load_state_dict(model.state_dict())
    plan = UpdatePlan((ChannelSubset("head", "output", (0, 2)),), frozenset({"tokens.weight"}))
    net = costsim.sparsify(model, plan, tokens)
    net(tokens).square().sum().backward()
    dense(tokens).square().sum().backward()
    table, head = (dense.get_parameter(f"{name}.weight").grad for name in ("tokens", "head"))
    assert table is not None
    assert head is not None
    found = {path: net.selected.get_parameter(path).grad for path in net.sparse_state_dict()}
    assert torch.allclose(found["tokens.weight"], table, atol=1e-6)
    assert torch.allclose(found["head.weight"], head[[0, 2]], atol=1e-6)
    net.eval()
    assert torch.equal(net(tokens), net(tokens.float()))
    assert type(net.dense()) is type(model)
    with torch.no_grad():
        assert torch.equal(net.dense()(tokens), net(tokens))


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([[0, 1, 2, 3, 4, 30]], "a sample has the token 30; the model's are 0 to 29"),
        ([[0, 1, 2, 3, 4, -1]], "a sample has the token -1; the model's are 0 to 29"),
        ([[0, 1, 2, 3, 4, 0.5]], "takes tokens, which are whole numbers; a sample has 0.5"),
    ],
)
def test_what_is_no_token_is_refused(samples: list[list[float]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_given(made()).module(torch.tensor(samples))


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (30.0, "a sample has the token 30; the model's are 0 to 29"),
        (0.5, "tokens, which are whole numbers; a sample has 0.5"),
        (math.nan, "tokens, which are whole numbers; a sample has nan"),
    ],
)
def test_the_executor_refuses_what_has_no_row(token: float, says: str) -> None:
    graph, tensors = (traced := capture(made(), drawn())).graph, traced.tensors
    executor = Executor(compile_program(graph, UpdatePlan(), TrainingStep(3)), tensors)
    with pytest.raises(InputError, match=says):
        executor.forward(executor.begin(), torch.full((3, LENGTH), token))


def test_tokens_in_other_places_are_tokens() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(VOCABULARY, 4)

        def forward(self, x: Tensor) -> Tensor:
            around = torch.cat([x.flip(1), x.roll(1, 1)], 1)
            both: Tensor = self.table(around) + self.table(x[:, :1])
            return both

    model, tokens = Turned().eval(), drawn()
    traced = capture(model, tokens)
    output, _ = evaluate(traced.graph, traced.tensors, tokens.float())
    assert torch.equal(output, model(tokens))


def test_whole_numbers_that_parameters_compute_are_refused() -> None:
    table = Parameter("table", (4, 2))
    gain = Parameter("gain", (3,))
    calls = (
        Call("input", Input((3,)), (), (3,)),
        Call("gain", Constant((3,)), (), (3,), "gain", bias=gain),
        Call("scale", Scale(2.0), ("gain",), (3,)),
        Call("table", Constant((4, 2)), (), (4, 2), "table", bias=table),
        Call("rows", Embedding(), ("table", "scale"), (3, 2)),
    )
    with pytest.raises(InputError, match=r"'rows' \(embedding\): .* computed by 'gain'"):
        LayerGraph(calls)


class _Computed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.table, self.how = nn.Embedding(VOCABULARY, 4, padding_idx=1), how
        self.by_frequency = nn.Embedding(VOCABULARY, 4, scale_grad_by_freq=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "twice":
            return self.table(x * 2)
        if self.how == "padded":
            return self.table(x) + self.table(torch.arange(LENGTH))
        return self.by_frequency(x)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("twice", "mul.Tensor in the model itself is not supported when it computes torch.int64"),
        ("padded", "constant tokens with padding among them"),
        ("frequency", "scale_grad_by_freq"),
    ],
)
def test_other_look_ups_are_refused(how: str, says: str) -> None:
    with pytest.raises(UnsupportedOperator, match=says):
        capture(_Computed(how).eval(), drawn() // 2)


def test_what_a_model_of_tokens_says_of_itself() -> None:
    model = made()
    assert (vocabulary_of(model), input_shape_of(model, None)) == (VOCABULARY, (LENGTH,))
    with pytest.raises(InputError, match="resolution is 9; the model takes 6 tokens"):
        input_shape_of(model, 9)
    del model.input_shape
    assert input_shape_of(model, 9) == (9,)
    assert input_shape_of(model, None) == (128,)
    model.input_tokens = 2**25  # type: ignore[assignment]
    with pytest.raises(InputError, match="input_tokens is 33554432; the number of its tokens"):
        vocabulary_of(model)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script, and samples of four classes that have tokens of their own."""
    (tmp_path / "net.py").write_text(SCRIPT)
    random, labels = np.random.default_rng(0), np.repeat(np.arange(4), 16)
    samples = random.integers(0, 7, (len(labels), LENGTH)) + 7 * labels[:, None]
    np.savez(tmp_path / "words.npz", x=samples, y=labels)
    np.savez(tmp_path / "foreign.npz", x=samples + 20, y=labels)
    np.savez(tmp_path / "halves.npz", x=samples + 0.5, y=labels)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("words")
def test_tokens_are_planned_and_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--data", "words.npz", "--ways", "4", "--shots", "4"]
    plan = ["plan", "--model", "net.py:Net", *task, "--device", "jetson-nano", "--out", "plan.json"]
    assert main([*plan, "--loss", "cross_entropy"]) == 0
    capsys.readouterr()
    assert main(["train", "plan.json", "--iterations", "30", "--json"]) == 0
    losses = json.loads(capsys.readouterr().out)["losses"]
    assert losses[-1] < losses[0]
    assert main(["train", "plan.json", "--iterations", "1"]) == 0
    assert "without --data" not in capsys.readouterr().err  # it is the plan's
    plan[plan.index("words.npz")] = "foreign.npz"
    assert main(plan) == 2
    assert "; the model's are 0 to 29" in capsys.readouterr().err
    plan[plan.index("foreign.npz")] = "halves.npz"
    assert main(plan) == 2
    assert "whole numbers; a sample has" in capsys.readouterr().err
