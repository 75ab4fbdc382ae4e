"""Under a hard limit on its memory, a process can do a step exactly if the price says so."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from measuring import Feed, executor_of, traced

from costsim.hardware.meters.measure import measure
from costsim.hardware.results.comparison import predicted_process_bytes
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc and ulimit -v"),
]

MODEL, BATCH, SIDE = "mcunet-5fps", 64, 128

# Big blocks straight from the system and back at once, so that what is asked for is what is held.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

# Prints the bytes of its address space once all kernels are compiled and the step's memory is
# given back: what the process needs besides the step.
CHILD = f"""
import json, sys
import torch
from measuring import Feed, executor_of, traced
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep

def held_bytes():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmSize"))

network = traced({MODEL!r}, {BATCH}, {SIDE})
plan = UpdatePlan.from_json(json.loads(sys.argv[1]))
program = compile_program(network.graph, plan, TrainingStep({BATCH}))
executor, feed = executor_of(network, program), Feed(program)
try:
    executor.step_from(feed)
    executor.step_from(feed)
except (RuntimeError, MemoryError) as error:
    sys.exit("out of memory" if "alloc" in str(error).lower() else f"unexpected: {{error}}")
print(held_bytes())
"""


def child(plan: UpdatePlan, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Two steps of `plan` in a process of their own."""
    limit = "unlimited" if limit_bytes is None else limit_bytes // 1024
    limited = ("sh", "-c", f'ulimit -v {limit}; exec "$@"', "sh")
    return subprocess.run(
        [*limited, sys.executable, "-c", CHILD, json.dumps(plan.to_json())],
        env={**os.environ, **ENVIRONMENT},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )


def plan_of(kind: str) -> UpdatePlan:
    graph = traced(MODEL, BATCH, SIDE).graph
    if kind == "full":
        return UpdatePlan.full(graph)
    last = [name for name in graph.layers if graph.selectable_channels(name, "output")][-4:]
    return UpdatePlan(tuple(ChannelSubset(name, "output", (0, 1, 2)) for name in last))


@cache
def price_bytes(kind: str) -> int:
    """The price of a step: live bytes and scratch, on this machine."""
    network = traced(MODEL, BATCH, SIDE)
    program = compile_program(network.graph, plan_of(kind), TrainingStep(BATCH))
    torch.set_num_threads(1)
    found = measure(executor_of(network, program), Feed(program), model=MODEL, steps=1)
    return predicted_process_bytes(program, found.scratch_bytes)


@cache
def baseline_bytes(kind: str) -> int:
    """What a process holds besides the step, measured without a limit."""
    done = child(plan_of(kind))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["sparse", "full"])
def test_a_step_runs_within_its_price_and_not_below_it(kind):
    plan, price, baseline = plan_of(kind), price_bytes(kind), baseline_bytes(kind)
    assert child(plan, baseline + int(1.03 * price)).returncode == 0
    done = child(plan, baseline + int(0.93 * price))
    assert (done.returncode, done.stderr.strip()) == (1, "out of memory")


def test_of_two_plans_the_one_priced_to_fit_runs_and_the_other_does_not():
    sparse, full = price_bytes("sparse"), price_bytes("full")
    assert full > 2 * sparse
    baseline = max(baseline_bytes("sparse"), baseline_bytes("full"))
    limit = baseline + (sparse + full) // 2
    assert child(plan_of("sparse"), limit).returncode == 0
    done = child(plan_of("full"), limit)
    assert (done.returncode, done.stderr.strip()) == (1, "out of memory")
