"""What is measured is what was predicted, and a wrong prediction is found out."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_default import by_default
from graphs import chain
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import Feed, executor_of, full_program, measured, programs, traced
from running import random_tensors
from zoo import ZOO

from costsim.base.errors import InputError, Note
from costsim.hardware.meters.allocator import Piece, record_allocations
from costsim.hardware.meters.measure import measure
from costsim.hardware.meters.scratch import ScratchTable, table_path
from costsim.hardware.results.comparison import (
    PROCESS_TOLERANCE,
    compare,
    predicted_process_bytes,
    priced_totals,
)
from costsim.hardware.results.machine import describe_machine, describe_versions
from costsim.hardware.results.record import (
    Comparison,
    Measurement,
    Validation,
    spread_warnings,
)
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Category, TrainingProgram, compile_program, memory_timeline
from costsim.ir.step import TrainingStep
from costsim.models.networks import NETWORKS
from costsim.pricing.cost import price
from costsim.run.execution.executor import Executor

TABLE = ScratchTable()
"""Shared, as on a user's machine: an operation is measured once, whatever the plan."""


def check(network, program):
    """Everything measured equals the price, the process's peak nearly."""
    found = measured(network, program, TABLE)
    here, cost = found.measurement, price(program)
    memory, macs = cost.memory, cost.macs
    assert here.kept_bytes == memory.kept_bytes
    assert here.bytes_of(Category.WEIGHT_GRADIENT) == memory.gradient_bytes
    assert here.bytes_of(Category.OPTIMIZER) == memory.optimizer_bytes
    assert here.updated_weight_bytes == memory.updated_weight_bytes
    assert here.program_peak_bytes == memory.peak_bytes
    live = [operation.live_bytes for operation in here.operations]
    assert live == memory_timeline(program).total_bytes.tolist()
    for direction in ("forward", "recompute", "input_gradient", "weight_gradient"):
        assert here.macs_of(direction) == getattr(macs, direction)
    assert sum(operation.macs for operation in here.operations) == macs.forward + macs.backward
    assert here.uncounted_calls == ()
    expected = predicted_process_bytes(program, found.scratch_bytes)
    assert here.process_peak_bytes == pytest.approx(expected, rel=PROCESS_TOLERANCE)
    assert here.allocator.net_bytes == 0
    validation = compare(program, priced_totals(program, found.scratch_bytes), here)
    assert validation.ok, validation.outside


@pytest.mark.parametrize(
    "name", by_default([*ZOO, *NETWORKS], ["tiny", "classic", "small_vit", "mcunet-5fps"])
)
def test_drawn_plans_cost_what_they_are_priced(name):
    network = traced(name)

    @settings(max_examples=1 if name in NETWORKS else 2)
    @given(st.data())
    def run(data):
        check(network, data.draw(programs(network)))

    run()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", [*ZOO, *NETWORKS])
def test_drawn_plans_cost_what_they_are_priced_at_full_size(name, batch):
    side = NETWORKS[name].resolution if name in NETWORKS else 32
    network = traced(name, batch, side)

    @settings(max_examples=15)
    @given(st.data())
    def run(data):
        check(network, data.draw(programs(network)))

    run()


@pytest.mark.parametrize("name", ["tiny", "small_vit"])
def test_the_allocators_hold_the_programs_buffers_and_nothing_else(name):
    """Between operations nothing is alive but the buffers, labels and a loss apart."""
    network = traced(name)
    program = full_program(network)
    executor, feed = executor_of(network, program), Feed(program)
    executor.step_from(feed)
    live = memory_timeline(program).total_bytes
    held = [0] * len(program.operations)

    with record_allocations() as recorder:
        executor.observer = lambda _op, position, _buffers: recorder.mark(str(position))
        executor.step_from(feed)
    total = price(program).memory.updated_weight_bytes
    for piece in recorder.pieces:
        total += piece.net_bytes
        if piece.name:
            held[int(piece.name)] = total
    one_loss = 4
    assert all(0 <= a - b <= one_loss for a, b in zip(held, live.tolist(), strict=True))


# A wrong price.


@pytest.fixture(scope="module")
def subject():
    """A network, its program and a measurement: ReLU masks, kept channels, Adam."""
    network = traced("mobilenet_v3_like")
    graph = network.graph
    names = [n for n in graph.layers if graph.selectable_channels(n, "output") > 4]
    subsets = tuple(ChannelSubset(name, "output", (0, 2, 3)) for name in names[-8::2])
    plan = UpdatePlan(subsets, frozenset(n for n in names[-6:] if graph.layers[n].bias))
    program = compile_program(graph, plan, TrainingStep(1, optimizer="adam"))
    return network, program, measured(network, program, TABLE)


def outside(program, found):
    result = compare(program, priced_totals(program, found.scratch_bytes), found.measurement)
    return {(one.owner, one.quantity) for one in result.outside}


def mutated(program: TrainingProgram, index: int, **change) -> TrainingProgram:
    buffers = list(program.buffers)
    buffers[index] = replace(buffers[index], **change)
    return replace(program, buffers=tuple(buffers))


def test_a_buffer_priced_one_byte_wrong_is_found(subject):
    _, program, found = subject
    assert outside(program, found) == set()
    for index, buffer in enumerate(program.buffers):
        if buffer.category is Category.FROZEN_WEIGHTS:
            continue
        assert outside(mutated(program, index, bytes=buffer.bytes + 1), found), buffer
        assert outside(mutated(program, index, bytes=buffer.bytes - 1), found), buffer


def test_a_forgotten_mask_is_found_at_its_layer(subject):
    _, program, found = subject
    masks = [i for i, b in enumerate(program.buffers) if b.category is Category.SAVED]
    assert masks
    for index in masks:
        wrong = outside(mutated(program, index, bytes=0), found)
        assert (None, "kept") in wrong
        assert len({owner for owner, what in wrong if owner and what == "kept"}) == 1


def test_a_buffer_held_too_long_or_not_long_enough_is_found(subject):
    _, program, found = subject
    last = len(program.operations) - 1
    for index, buffer in enumerate(program.buffers):
        if buffer.birth < buffer.death < last and buffer.bytes:
            assert outside(mutated(program, index, death=buffer.death + 1), found), buffer
            assert outside(mutated(program, index, death=buffer.death - 1), found), buffer


def test_macs_priced_one_wrong_are_found(subject):
    _, program, found = subject
    for index, operation in enumerate(program.operations):
        operations = list(program.operations)
        operations[index] = replace(operation, macs=operation.macs + 1)
        assert outside(replace(program, operations=tuple(operations)), found), operation.name


def test_an_execution_that_holds_on_to_its_buffers_is_found(subject):
    network, program, _ = subject
    executor = executor_of(network, program)
    held = []

    class Holding(Executor):
        def run_forward(self, state):
            super().run_forward(state)
            held.extend(state.buffers.values())

    executor.__class__ = Holding
    found = measure(executor, Feed(program), model="net", steps=1, scratch=TABLE)
    assert found.measurement.allocator.net_bytes > 0


def test_kernels_that_take_more_scratch_than_the_table_says_are_found(subject):
    _, program, found = subject
    none = tuple(0 for _ in found.scratch_bytes)
    peak = found.measurement.process_peak_bytes
    assert predicted_process_bytes(program, none) == price(program).memory.peak_bytes
    result = compare(program, priced_totals(program, none), found.measurement)
    process = next(one for one in result.totals() if one.quantity == "process peak")
    short = peak - price(program).memory.peak_bytes > PROCESS_TOLERANCE * peak
    assert (process.verdict == "outside") == short


# Memory over many steps.


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_garbage_of_an_earlier_recording_is_not_released_in_this_one() -> None:
    class Knot:
        def __init__(self) -> None:
            self.myself, self.values = self, torch.zeros(1000)

    gc.disable()  # else it may already be gone
    try:
        with record_allocations() as earlier:
            knot = Knot()
            earlier.mark("made")
        assert earlier.pieces[0].net_bytes >= 4000
        del knot
        with record_allocations() as recorder:
            gc.collect()
            recorder.mark("collected")
    finally:
        gc.enable()
    assert [piece.net_bytes for piece in recorder.pieces] == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["tiny", pytest.param("small_vit", marks=pytest.mark.slow)])
def test_memory_does_not_grow_over_a_thousand_steps(name):
    network = traced(name)
    graph = network.graph
    plan = UpdatePlan.full(graph)
    program = compile_program(graph, plan, TrainingStep(1, optimizer="adam"))
    executor, feed = executor_of(network, program), Feed(program)
    for _ in range(100):
        executor.step_from(feed)
    before = resident_bytes()
    for _ in range(1000):
        executor.step_from(feed)
    # A leak of one 1 KiB buffer a step would be 1 MiB.
    assert resident_bytes() - before < 2**20
    with record_allocations() as recorder:
        for _ in range(20):
            executor.step_from(feed)
            recorder.mark("step")
    assert [piece.net_bytes for piece in recorder.pieces] == [0] * 21
    assert executor.steps_done == 1120


# The recorder.


def test_the_recorder_sees_tensors_arrays_and_hidden_scratch():
    x, weight = torch.randn(2, 16, 32, 32), torch.randn(16, 16, 3, 3)
    bits = torch.zeros(8000, dtype=torch.uint8)
    torch.conv2d(x, weight, None, 1, 1)
    with record_allocations() as recorder:
        recorder.mark("before")
        y = torch.conv2d(x, weight, None, 1, 1)
        recorder.mark("convolution")
        packed = np.packbits(bits.numpy())
        recorder.mark("array")
        del packed, y
        recorder.mark("released")
    before, convolution, array, released, after = recorder.pieces
    assert (before.net_bytes, after.net_bytes) == (0, 0)
    output = 4 * 2 * 16 * 32 * 32
    assert convolution.net_bytes == output <= convolution.peak_bytes()
    assert array == Piece("array", (1000,), 1000)
    assert sorted(released.changes_bytes) == [-output, -1000]


def test_arrays_may_outlive_the_recorder():
    with record_allocations():
        array = np.zeros(100_000)
    array = np.concatenate([array, np.ones(10)])
    assert array.sum() == 10


@pytest.mark.slow
def test_building_and_measuring_loads_no_compiler():
    """PyTorch's, and the symbolic algebra it brings: seconds before anything is measured."""
    script = (
        "import sys; from measuring import full_program, measured, traced; import costsim.cli\n"
        "network = traced('mcunet-5fps', side=32)\n"
        "measured(network, full_program(network))\n"
        "print(*sorted({'sympy', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(support)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_peak_is_within_a_piece():
    piece = Piece("p", (10, -4, 8, -14), 0)
    assert piece.peak_bytes() == 10 - 4 + 8
    assert piece.peak_bytes(100) == 100 + 10 - 4 + 8
    assert piece.net_bytes == 0
    assert Piece("p", (-5,), 0).peak_bytes(7) == 7


# The table of scratch.


def test_scratch_is_measured_once_and_remembered(tmp_path):
    network = traced("tiny")
    program = full_program(network)
    path = tmp_path / "new" / "table.json"
    first = measured(network, program, ScratchTable.open(path))
    entries = json.loads(path.read_text())["bytes"]
    assert max(entries.values()) == max(first.scratch_bytes) > 0
    marked = dict.fromkeys(entries, 12345)
    path.write_text(json.dumps({"schema": "costsim.scratch/1", "bytes": marked}))
    again = measured(network, program, ScratchTable.open(path))
    assert set(again.scratch_bytes) == {12345}


def test_scratch_does_not_depend_on_the_rest_of_the_plan():
    network = traced("tiny")
    graph = network.graph
    part = UpdatePlan((ChannelSubset("head", "output", (1, 2)),))
    table = ScratchTable()
    measured(network, compile_program(graph, part, TrainingStep(1)), table)
    known = dict(table.entries)
    measured(network, full_program(network), table)
    shared = {name for name in table.entries if name.startswith("forward") and "head" not in name}
    assert len(known.keys() & shared) >= 3
    assert all(table.entries[name] == size for name, size in known.items())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "costsim.scratch/1"}', "\0"])
def test_a_damaged_table_is_measured_again(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    assert ScratchTable.open(path).entries == {}


def test_a_table_that_cannot_be_kept_costs_nothing_else(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    table = ScratchTable(tmp_path / "cache" / "scratch" / "table.json", {"one": 1}, {"one"})
    with pytest.warns(Note, match="are not kept for next time"):
        table.save()
    assert table.entries == {"one": 1}
    (tmp_path / "cache").unlink()
    table.save()
    assert ScratchTable.open(table.path).entries == {"one": 1}


def test_tables_are_kept_apart_by_machine_threads_and_version(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    versions = describe_versions()
    paths = {
        table_path(describe_machine(1), versions),
        table_path(describe_machine(2), versions),
        table_path(describe_machine(1), {**versions, "torch": "0.0"}),
    }
    assert len(paths) == 3
    assert {path.parent for path in paths} == {tmp_path / "costsim" / "scratch"}


# The values.


def test_documents_are_read_back_equal(subject, tmp_path):
    _, program, found = subject
    here = found.measurement
    here.write(tmp_path / "measurement.json")
    assert Measurement.read(tmp_path / "measurement.json") == here
    validation = compare(
        program, priced_totals(program, found.scratch_bytes), here, device="board", notes=("n",)
    )
    validation.write(tmp_path / "validation.json")
    assert Validation.read(tmp_path / "validation.json") == validation
    assert json.loads((tmp_path / "validation.json").read_text())["schema"] == (
        "costsim.validation/1"
    )


def test_other_documents_are_refused(subject):
    document = subject[2].measurement.to_json()
    for change, told in (
        (
            {"schema": "costsim.plan/1"},
            "schema: 'costsim.plan/1'; allowed is costsim.measurement/1",
        ),
        ({"step_s": [-1.0]}, "step_s.0"),
        ({"extra": 1}, "extra"),
        ({"machine": None}, "machine"),
    ):
        with pytest.raises(InputError, match=told):
            Measurement.from_json({**document, **change}, "m.json")
    others: tuple[Any, ...] = (None, [], "text")
    for other in others:
        with pytest.raises(InputError, match="schema: None"):
            Measurement.from_json(other, "m.json")


def test_a_wide_spread_is_warned_of():
    assert spread_warnings((1.0, 1.01, 1.02, 1.0, 1.01)) == ()
    (warning,) = spread_warnings((1.0, 2.0, 1.0, 2.0, 1.5, 1.0))
    assert "of their median" in warning
    (warning,) = spread_warnings((1.0, 1.0))
    assert "only 2 steps" in warning


def test_comparisons_say_within_or_outside():
    assert Comparison.of("q", 100, 100).verdict == "within"
    assert Comparison.of("q", 100, 101).verdict == "outside"
    assert Comparison.of("q", 0, 0).verdict == "within"
    assert Comparison.of("q", 0, 1).verdict == "outside"
    assert Comparison.of("q", 100, 102, tolerance=0.02).verdict == "within"
    assert Comparison.of("q", 100, 97, tolerance=0.02).verdict == "outside"
    assert Comparison.of("q", 1.0, 9.0, unit="s", tolerance=None).verdict == "informal"


def test_raw_samples_are_kept():
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(1))
    executor = Executor(program, random_tensors(graph, torch.float32), learning_rate=1e-5)
    found = measure(executor, Feed(program), model="net", steps=7).measurement
    assert len(found.step_s) == 7
    assert sorted(found.step_s)[3] == found.median_s
    assert len(found.operations) == len(program.operations)
    assert found.allocator.allocated_bytes - found.allocator.freed_bytes == 0
    assert found.dtype == "float32"
