"""Emitted C: whole steps against the executor, what it touches, the command, what it refuses."""

import json
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from channel_plans import every_nth_layer
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from emitting import WARNINGS, Emitted, compiler, run, zig
from graphs import GraphBuilder, chain, graphs, plans, steps
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import random_images, random_tensors, with_statistics
from settled import settled_batches
from whole_networks import flat_cross_entropy, fresh

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.c.emission import COMPILER_FLAGS, EmissionOptions, Memory, Sizes, check_emitted, emit
from costsim.c.emission.folder import exported_names
from costsim.c.emission.parts import blocks_of
from costsim.cli import main
from costsim.device import load_device
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Convolution, MaxPool, Operator, Shapes, elements
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Category, compile_program, plan_arena
from costsim.ir.step import OPTIMIZER_STATES, BitWidths, TrainingStep
from costsim.models.networks import NETWORKS
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

EPS = 1e-2
"""Of Adam: gradients that are zero but for rounding would be divided by themselves."""


def arrays(tensors):
    return {name: tensor.detach().float().numpy().copy() for name, tensor in tensors.items()}


def labels_for(graph, step):
    shape = graph[graph.output].shape
    return torch.arange(shape[0] * step.passes) % (elements(shape) // shape[0])


def check_against_pytorch(program, tensors, labels, *, count=2, rate=0.05):
    """Losses and updated weights are as far from float64 as PyTorch's own in float32, or less.

    Ten times as far is allowed: sums are in another order. Every step has images of its own, of
    which rounding decides nothing; those of the last are returned.
    """
    options = EmissionOptions(learning_rate=rate, eps=EPS)
    ours = {"learning_rate": rate, "eps": EPS, "loss": flat_cross_entropy, "channels_last": False}
    weights = arrays(tensors)
    given = {name: torch.from_numpy(array) for name, array in weights.items()}
    feed = settled_batches(program, given, [labels] * count, **ours)
    runs = {}
    for dtype in (torch.float64, torch.float32):
        own = {name: torch.from_numpy(a.copy()).to(dtype) for name, a in weights.items()}
        executor = Executor(program, own, **ours)
        runs[dtype] = [float(executor.step(x.to(dtype), labels)) for x, _ in feed], own
    exact, usual = runs[torch.float64], runs[torch.float32]
    emitted = Emitted(program, weights, options=options)
    for (x, _), wanted, rounded in zip(feed, exact[0], usual[0], strict=True):
        allowed = 10 * abs(wanted - rounded) + 1e-5 * max(1.0, abs(wanted))
        assert abs(emitted.step(x.numpy(), labels.numpy()) - wanted) <= allowed
    for name, array in emitted.updated().items():
        right, near = exact[1][name].numpy(), usual[1][name].numpy()
        scale = max(float(np.abs(right).max()), float(np.abs(right - weights[name]).max()))
        allowed = 10 * np.abs(right - near).max() + 1e-5 * scale
        assert np.abs(array - right).max() <= allowed, name
    return emitted, x


@settings(max_examples=20)
@given(st.data())
def test_drawn_steps_are_those_of_pytorch_and_write_where_they_may(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    step = replace(data.draw(steps(graph)), bits=BitWidths())
    program = compile_program(graph, data.draw(plans(graph)), step)
    labels = labels_for(graph, step)
    emitted, x = check_against_pytorch(program, random_tensors(graph), labels)
    assert emitted.stray_writes(x.numpy(), labels.numpy()) == []


@pytest.mark.parametrize("optimizer", OPTIMIZER_STATES)
@pytest.mark.parametrize("update", ["immediate", "deferred"])
@pytest.mark.parametrize("passes", [1, 3])
def test_optimizers_updates_and_passes(optimizer, update, passes):
    graph = chain(batch=2)
    step = TrainingStep(2 * passes, 2, optimizer, update)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    labels = labels_for(graph, step)
    check_against_pytorch(program, random_tensors(graph), labels, count=20, rate=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "small_vit",
        "mobilenet_v3_like",
        "mcunet-5fps",
        *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS if n != "mcunet-5fps"),
    ],
)
def test_networks(name):
    _, graph, tensors = fresh(name, torch.float32)
    step = TrainingStep(graph.batch, optimizer="momentum", recompute=())
    program = compile_program(graph, every_nth_layer(graph, 3), step)
    labels = torch.tensor([0, 1])
    emitted, x = check_against_pytorch(program, tensors, labels, rate=0.01)
    values = emitted.predict(x.numpy())
    assert np.array_equal(emitted.predict(x.numpy()), values)
    for i, buffer in enumerate(program.buffers):  # a prediction changes no state
        if buffer.category is Category.UPDATED_WEIGHTS:
            assert emitted.memory.arena.offsets_bytes[i] % 4 == 0
    assert emitted.stray_writes(x.numpy(), labels.numpy()) == []


def test_predictions_are_the_models_and_init_starts_again():
    graph = chain(batch=2)
    step = TrainingStep(2, optimizer="adam")
    tensors = random_tensors(graph, torch.float32)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    x, labels = random_images(graph, step, torch.float32), labels_for(graph, step)
    emitted = Emitted(program, arrays(tensors))
    exactly = {name: tensor.double() for name, tensor in tensors.items()}
    wanted = evaluate(graph, exactly, x.double())[0].numpy()
    assert np.abs(emitted.predict(x.numpy()) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    losses = [emitted.step(x.numpy(), labels.numpy()) for _ in range(3)]
    assert losses[2] < losses[0]
    emitted.library.costsim_init()
    assert [emitted.step(x.numpy(), labels.numpy()) for _ in range(3)] == losses


def test_a_loss_that_is_not_finite_updates_nothing():
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    weights = arrays(random_tensors(graph))
    emitted = Emitted(program, weights)
    shape = graph[graph.input].shape
    assert np.isnan(emitted.step(np.full(shape, np.nan), np.zeros(1)))
    for name, array in emitted.updated().items():
        assert np.array_equal(array, weights[name]), name


@given(st.data())
def test_blocks_cover_a_weight_once(data):
    graph = data.draw(graphs())
    plan = data.draw(plans(graph))
    memory = Memory(compile_program(graph, plan, TrainingStep(graph.batch)))
    for update in memory.updates:
        frozen = memory.frozen.get(update.parameter.name, np.empty(0, np.int64))
        every = np.concatenate([frozen, update.places])
        assert np.array_equal(np.sort(every), np.arange(update.parameter.size))
    for name, places in memory.frozen.items():
        index = memory.index[f"parameter:{name}"]
        assert memory.program.buffers[index].bytes == 4 * len(places)


def test_sizes_are_the_programs():
    graph = with_statistics(chain(batch=2))
    plan = UpdatePlan(
        (ChannelSubset("convolution3", "input", (1, 3)),), frozenset(["convolution5"])
    )
    program = compile_program(graph, plan, TrainingStep(2, optimizer="adam"))
    files = emit(program, arrays(random_tensors(graph)))
    sizes = Sizes.of_files(files)

    def total(category):
        return sum(b.bytes for b in program.buffers if b.category is category)

    assert sizes.arena_bytes == plan_arena(program).size_bytes
    assert sizes.frozen_weight_bytes == total(Category.FROZEN_WEIGHTS)
    assert sizes.updated_weight_bytes == total(Category.UPDATED_WEIGHTS)
    assert sizes.optimizer_bytes == 2 * sizes.updated_weight_bytes == total(Category.OPTIMIZER)
    source = str(files["costsim_weights.c"])
    counts = re.findall(r"^const float costsim_(weight|initial)_\d+\[(\d+)\]", source, re.MULTILINE)
    flash = sum(4 * int(count) for _, count in counts)
    assert flash == sizes.frozen_weight_bytes + sizes.initial_weight_bytes
    for size in (sizes.arena_bytes, sizes.frozen_weight_bytes, sizes.updated_weight_bytes):
        assert f"| {size:,} |" in files["README.md"]
    assert f"#define COSTSIM_ARENA_BYTES {sizes.arena_bytes} " in files["costsim_model.h"]


def test_it_builds_for_a_cortex_m7_and_with_make(tmp_path):
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    for name, content in emit(program, arrays(random_tensors(graph))).items():
        (tmp_path / name).write_text(content)
    target = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp")
    for name in ("costsim_model", "costsim_weights", "costsim_kernels"):
        source, out = tmp_path / f"{name}.c", tmp_path / f"{name}.o"
        flags = (*target, *COMPILER_FLAGS, *WARNINGS)
        run([*zig(), *flags, "-c", str(source), "-o", str(out)])
        with out.open("rb") as file:
            elf = ELFFile(file)
            assert elf.header.e_machine == "EM_ARM"
            table = elf.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            symbols = table.iter_symbols()
            needed = {s.name for s in symbols if s.entry.st_shndx == "SHN_UNDEF"} - {""}
        own = {n for n in needed if n.startswith("costsim_")}
        assert {n for n in needed - own if "mem" not in n} == set(), "a C library is needed"
    for file in tmp_path.glob("*.o"):
        file.unlink()
    done = subprocess.run(
        ["make", "-s", f"CC={compiler()[0]}"], cwd=tmp_path, capture_output=True, text=True
    )
    if len(compiler()) == 1:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "libcostsim_model.a").stat().st_size > 0


# What it refuses.


def test_bad_input_is_named():
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    weights = arrays(random_tensors(graph))
    first = graph.parameters[0].name
    with pytest.raises(InputError, match=f"{first}.*missing"):
        emit(program, {name: a for name, a in weights.items() if name != first})
    with pytest.raises(InputError, match=rf"{first}.*is \(3,\)"):
        emit(program, {**weights, first: np.zeros(3)})
    with pytest.raises(InputError, match="learning rate is nan"):
        EmissionOptions(learning_rate=float("nan"))
    narrow = compile_program(
        graph, UpdatePlan.full(graph), TrainingStep(bits=BitWidths(16, 16, 32, 32))
    )
    with pytest.raises(InputError, match="16-bit weights, 16-bit activations"):
        emit(narrow, weights)


def test_an_operator_without_a_kernel_is_named():
    class Sorting(Operator):
        kind = "sorting"

        def output_shape(self, inputs, weight):
            return inputs[0]

    g = GraphBuilder()
    x = g.relu(g.input(1, 2, 20, 20))
    graph = LayerGraph([*g.calls, Call("sorted", Sorting(), (x,), (1, 2, 20, 20))])
    with pytest.raises(UnsupportedOperator, match="call 'sorted': operator 'sorting' has no C"):
        check_emitted(graph)
    pool = MaxPool((17, 17), (1, 1), (0, 0), (1, 1))
    graph = LayerGraph([*g.calls, Call("wide", pool, (x,), (1, 2, 4, 4))])
    with pytest.raises(InputError, match="call 'wide': a window of 289 elements"):
        check_emitted(graph)


def test_blocks_of_groups_say_what_they_add_to():
    g = GraphBuilder()
    x = g.input(1, 4, 3, 3)
    g.conv(x, 6, 1, groups=2, bias=False)
    call = g.calls[-1]
    assert isinstance(call.operator, Convolution)
    shapes = Shapes(((1, 4, 3, 3),), (1, 6, 3, 3), (6, 2, 1, 1))
    by_output = blocks_of(call, shapes, "output", (1, 2, 4))
    assert [(b.outputs, b.inputs, b.updated, b.adds_input) for b in by_output] == [
        ((0,), (0, 1), False, False),
        ((1, 2), (0, 1), True, True),
        ((3, 5), (2, 3), False, False),
        ((4,), (2, 3), True, True),
    ]
    assert not any(b.adds_output for b in by_output)
    by_input = blocks_of(call, shapes, "input", (0, 2, 3))
    assert [(b.outputs, b.inputs, b.updated, b.adds_output) for b in by_input] == [
        ((0, 1, 2), (1,), False, False),
        ((0, 1, 2), (0,), True, True),
        ((3, 4, 5), (2, 3), True, False),
    ]
    assert not any(b.adds_input for b in by_input)


# The command.


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    arguments = ["plan", "--device", "stm32h743", "--resolution", "48", "--bits", "32"]
    arguments += ["--loss", "cross_entropy", "--criterion", "l2_norm", "--bias"]
    assert main([*arguments, "--out", str(path)]) == 0
    return path


def test_a_plan_becomes_a_folder(plan, tmp_path, capsys):
    out = tmp_path / "firmware"
    assert main(["export", str(plan), "--out", str(out)]) == 0
    predicted = json.loads(plan.read_text())["predicted"]["memory"]
    printed = capsys.readouterr().out
    assert f" {predicted['arena_bytes']:,} B" in printed
    assert f" {predicted['updated_weight_bytes']:,} B" in printed
    names = {file.name for file in out.iterdir()}
    assert names == {
        "CMakeLists.txt", "Makefile", "README.md", "costsim_adapt.c", "costsim_check.c",
        "costsim_kernels.c", "costsim_kernels.h", "costsim_vectors.h",
        "costsim_model.c", "costsim_model.h", "costsim_model.json", "costsim_plan.json",
        "costsim_store.c", "costsim_weights.c",
    }  # fmt: skip
    assert exported_names(out) == names
    (out / "main.c").touch()
    assert main(["export", str(plan), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sizes"]["arena_bytes"] == predicted["arena_bytes"]
    assert set(document["files"]) == names
    assert {file.name for file in out.iterdir()} == names | {"main.c"}


def test_a_plan_says_by_what_its_c_tells_classes_apart(plan, tmp_path, capsys):
    """Class means of the plan's ways and temperature, or logits; an older plan does not say."""
    document = json.loads(plan.read_text())
    assert document["loss"] == "cross_entropy"
    assert main(["export", str(plan), "--out", str(tmp_path / "logits")]) == 0
    means, older = tmp_path / "means.json", tmp_path / "older.json"
    recipe = {**document["recipe"], "loss": "prototype", "temperature": 7.0, "iterations": 12}
    means.write_text(json.dumps({**document, "loss": "prototype", "recipe": recipe}))
    assert main(["export", str(means), "--out", str(tmp_path / "means"), "--json"]) == 0
    told = capsys.readouterr()
    assert "taken for logits" not in told.err
    ways, features = document["task"]["ways"], 160
    sizes = json.loads(told.out[told.out.index("{") :])["sizes"]
    assert sizes["class_means_bytes"] == 4 * ways * features
    header = (tmp_path / "means" / "costsim_model.h").read_text()
    for name, value in {"BY_CLASS_MEANS": 1, "CLASSES": ways, "ITERATIONS": 12}.items():
        assert f"#define COSTSIM_{name} {value} " in header
    assert "softmax of 7 times the cosine" in header
    assert "#define COSTSIM_BY_CLASS_MEANS 0 " in (tmp_path / "logits/costsim_model.h").read_text()
    del document["loss"]
    older.write_text(json.dumps(document))
    assert main(["export", str(older), "--out", str(tmp_path / "told")]) == 0
    assert "outputs taken for logits; the plan does not say its loss" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_larger_than_flash_is_refused_and_nothing_written(plan, tmp_path, capsys):
    out = tmp_path / "firmware"
    assert main(["export", str(plan), "--out", str(out), "--json"]) == 0
    flash = Sizes(**json.loads(capsys.readouterr().out)["sizes"]).flash_bytes
    assert flash < 2 << 20  # the STM32H743's, which the plan is for
    document = json.loads(plan.read_text())
    document["device_spec"] = load_device("stm32f746").to_json()
    document["device"]["name"], document["device"]["target"] = "stm32f746", "cpu"
    small, own = tmp_path / "small.json", tmp_path / "own.json"
    small.write_text(json.dumps(document))
    document["device"]["name"] = document["device_spec"]["name"] = "my-board"
    own.write_text(json.dumps(document))
    told = f"weights and tables take {flash:,} bytes of flash, of which there are {1 << 20:,}"
    for asked in ((small,), (plan, "--device", "stm32f746"), (own,)):
        assert main(["export", *map(str, asked), "--out", str(tmp_path / "x")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line
        assert not (tmp_path / "x").exists()
    assert main(["export", str(plan), "--out", str(out), "--device", "jetson-nano"]) == 2
    assert "jetson-nano has no flash" in capsys.readouterr().err
    tight = load_device("stm32h743").to_json()
    regions = [one for one in tight["memory"].values() if one["kind"] == "flash"]
    regions[0]["size"]["value"] = flash + 1024
    board = tmp_path / "tight.yaml"
    board.write_text(json.dumps(tight))
    arguments = ["export", str(plan), "--out", str(out), "--device", str(board)]
    assert main(arguments) == 0
    assert "only 1,024 are left for code" in capsys.readouterr().err


def test_folders_that_hold_something_else_are_left_alone(plan, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for out, said in (
        (tmp_path / "mine", "holds other files"),
        (tmp_path / "mine" / "thesis.txt", "is a file"),
        (tmp_path / "no" / "where", "does not exist"),
    ):
        assert main(["export", str(plan), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert main(["export", str(tmp_path / "none.json"), "--out", str(tmp_path / "x")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
