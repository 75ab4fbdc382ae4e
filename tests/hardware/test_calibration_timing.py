"""Probes run for real: what comes back fits the program, and a target gives the same."""

import statistics
from types import SimpleNamespace

import pytest
import torch

from costsim.base.progress import silent
from costsim.hardware.calibration.conditions import describe_conditions
from costsim.hardware.calibration.device_file import machine_spec
from costsim.hardware.calibration.probes import YARDSTICK, Probe, assorted, candidates
from costsim.hardware.calibration.remote import target_runner
from costsim.hardware.calibration.samples import SampleFile, seen
from costsim.hardware.calibration.session import CalibrationRequest, calibrate, local_runner
from costsim.hardware.calibration.timing import FEWEST, clock_for, run_batch, tensors_for
from costsim.hardware.targets.base import Watch, parse_target
from costsim.pricing.cost import step_seconds
from costsim.run.execution.forward import evaluate

SMALL = [Probe("residual", 7, 1), Probe("attention", 41, 1), assorted()[0]]


def test_readings_fit_the_program_they_are_of() -> None:
    batch = {"probes": [probe.name for probe in SMALL], "seconds_each": 0.0}
    found = run_batch(batch, SimpleNamespace(threads=1), silent)
    samples = SampleFile.from_json({"schema": SampleFile.schema_name, **found}, "here")
    assert samples.conditions.threads == 1
    assert [one.probe for one in samples.probes] == SMALL
    for readings in samples.probes:
        operations = len(readings.probe.program().operations)
        assert len(readings.steps) == len(readings.yardstick) == FEWEST
        assert {len(row) for row in readings.operations} == {operations}
    for one in seen(samples):
        # Neither free nor all of the step: most of a step is its operations.
        assert 0.3 < one.operation_s.sum() / one.step_s < 3
        assert (one.operation_s > 0).mean() > 0.9


@pytest.mark.parametrize(
    "probe", [*candidates(6), *assorted()[:3], YARDSTICK], ids=lambda probe: probe.name
)
def test_probes_compute_finite_numbers(probe: Probe) -> None:
    graph = probe.program().graph
    images = torch.randn(graph[graph.input].shape, generator=torch.Generator().manual_seed(0))
    output, _ = evaluate(graph, tensors_for(graph), images)
    assert torch.isfinite(output).all()
    assert 1e-3 < output.abs().max() < 1e3  # noise that neither dies nor explodes


def test_one_thread_is_timed_by_its_own_clock() -> None:
    """Sleeping takes no time of it, computing does; reading it takes less than an operation."""
    import time

    own, wall = clock_for(1), clock_for(2)
    before = own.now(), wall.now()
    time.sleep(0.05)
    assert own.now() - before[0] < 40e6 < wall.now() - before[1]
    assert 0 <= own.cost_ns < 20_000


@pytest.mark.slow
def test_a_target_runs_probes_in_a_process_of_its_own() -> None:
    with parse_target("local").session(Watch(silent)) as session:
        found = target_runner(session, 1)([SMALL[0].name], 0.1)
    samples = SampleFile.from_json({"schema": SampleFile.schema_name, **found}, "there")
    assert samples.probes[0].probe == SMALL[0]
    assert list(samples.conditions.differences(describe_conditions(1))) == []


@pytest.mark.slow
def test_a_calibration_of_this_machine_predicts_a_step_of_it(tmp_path) -> None:
    """Within a factor of two, whatever else is running; the figures are `benchmarks/latency.py`."""
    conditions = describe_conditions(1)
    found = calibrate(
        CalibrationRequest(
            machine_spec(conditions),
            local_runner(1),
            tmp_path / "samples.json",
            time_limit_s=30.0,
            probes=10,
            pool=40,
            conditions=conditions,
        )
    )
    held = Probe("mobile", 500, 1)
    batch = {"probes": [held.name], "seconds_each": 1.0}
    readings = run_batch(batch, SimpleNamespace(threads=1), silent)["probes"][0]
    measured = statistics.median(readings["steps"]) / 1e9
    assert 0.5 < measured / step_seconds(held.program(), found.spec.target()).value < 2
