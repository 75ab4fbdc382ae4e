"""Calibration: laws found again, intervals that hold, readings that survive, nonsense refused."""

import json
import math
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from calibrating import CONDITIONS, device, true_law, true_seconds
from graphs import graphs, plans, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.device import Calibration, Interval, Law, load_device
from costsim.device.calibration import QUANTILE, around
from costsim.hardware.calibration.device_file import machine_spec, write_device
from costsim.hardware.calibration.fit import KernelSample, family, fit_laws
from costsim.hardware.calibration.probe_choice import Doubt, next_probe, rows_of
from costsim.hardware.calibration.probes import (
    Probe,
    _compiled,
    assorted,
    candidates,
    checks,
    parse_probe,
    references,
)
from costsim.hardware.calibration.refinement import MeasuredStep, refine
from costsim.hardware.calibration.samples import SampleFile, noise_floor, read_samples, seen
from costsim.hardware.calibration.session import Calibrated, CalibrationRequest, calibrate, conclude
from costsim.ir.operators import OPERATORS
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import OPTIMIZER_STATES, TrainingStep
from costsim.models.networks.architectures import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import operation_work, step_seconds
from costsim.pricing.derivation import build_table
from costsim.report.drift import (
    drift_svg,
    render_drift_page,
    sentence,
    write_drift_page,
)
from costsim.report.svg import COLOURS, SVG

BASE = machine_spec(CONDITIONS)
PROBES = tuple(probe.name for probe in (*candidates(24), *checks()[:8]))


def samples_of(names: Sequence[str] = PROBES, visits: int = 2, **errors: Any) -> SampleFile:
    runner = device(**errors)
    found = [runner(names, float(visit)) for visit in range(visits)]
    document = {**found[0], "probes": [probe for one in found for probe in one["probes"]]}
    return SampleFile.from_json({"schema": SampleFile.schema_name, **document}, "made up")


@cache
def calibrated(
    noise: float = 0.0, common: float = 0.0, own: float = 0.0, seed: int = 0
) -> Calibrated:
    return conclude(BASE, None, samples_of(noise=noise, common=common, own=own, seed=seed))


# Laws.


def test_known_laws_are_found_again() -> None:
    """Exact readings give exact steps of networks that were never measured."""
    spec = calibrated().spec
    for probe in (Probe("mobile", 900, 1, whole=True), Probe("residual", 901, 8, whole=True)):
        program, truth = probe.program(), true_seconds(probe)
        known = spec.target().calibration.kernels.keys()
        pairs = [
            (truth[i], spec.target().operation_seconds(*work[:4], kernel=work[4]))
            for i, op in enumerate(program.operations)
            if (work := operation_work(program, op))[4] in known
        ]
        assert len(pairs) > 0.8 * len(program.operations)
        true, predicted = map(sum, zip(*pairs, strict=True))
        assert predicted == pytest.approx(true, rel=0.02)


@given(
    overhead=st.floats(1e-6, 1e-4),
    a_mac=st.floats(1e-12, 1e-9),
    a_byte=st.floats(1e-11, 1e-9),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_one_law_from_exact_samples(
    overhead: float, a_mac: float, a_byte: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    amounts = [(float(m), float(b)) for m, b in rng.uniform(1e3, 1e7, (12, 2))]
    samples = [
        KernelSample("k", "linear", "forward", m, b, overhead + a_mac * m + a_byte * b)
        for m, b in amounts
    ]
    law = fit_laws(samples)["k"]
    for m, b in amounts:
        assert law.seconds(m, b) == pytest.approx(overhead + a_mac * m + a_byte * b, rel=1e-3)


def test_no_term_is_below_zero() -> None:
    """Samples that get faster with size are met by a constant, not by a negative rate."""
    samples = [KernelSample("k", "linear", "forward", m, 0, 1e-3 / m) for m in (1.0, 2.0, 4.0, 8.0)]
    law = fit_laws(samples)["k"]
    assert min(law.overhead_s, law.s_per_mac, law.s_per_byte) >= 0
    assert law.seconds(4.0, 0.0) > 0


def test_outliers_do_not_move_a_law() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.uniform(1e5, 1e7, 40)
    seconds = 1e-5 + 1e-10 * sizes
    seconds[::10] *= 8
    samples = [
        KernelSample("k", "linear", "forward", float(m), 0.0, float(s))
        for m, s in zip(sizes, seconds, strict=True)
    ]
    assert fit_laws(samples)["k"].seconds(5e6, 0.0) == pytest.approx(1e-5 + 5e-4, rel=0.05)


def test_a_step_is_within_five_percent_on_networks_never_seen() -> None:
    """Readings with 3 % noise, kernels that their laws miss by 8 %: errors of steps average out."""
    spec = calibrated(noise=0.03, own=0.08).spec
    known = spec.target().calibration.kernels
    errors = []
    for network in ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"):
        for batch in (1, 8):
            graph = architecture_graph(network, batch=batch)
            program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(batch=batch))
            work = [operation_work(program, op) for op in program.operations]
            true = predicted = 0.0
            for kind, direction, macs, moved, kernel in work:
                if kernel in known:
                    overhead, a_mac, a_byte = true_law(kernel)
                    true += overhead + a_mac * macs + a_byte * moved
                    predicted += spec.target().operation_seconds(
                        kind, direction, macs, moved, kernel=kernel
                    )
            errors.append(abs(predicted / true - 1))
    assert statistics.median(errors) < 0.05
    assert max(errors) < 0.1


# Intervals.


def test_errors_of_single_operations_average_out_and_shared_ones_do_not() -> None:
    law = Law(overhead_s=1e-5, s_per_mac=0.0, s_per_byte=0.0, spread=0.2)
    c = Calibration(
        conditions=CONDITIONS, taken="now", step_factor=1.0, common=0.03, noise_floor=0.01,
        yardstick_s=1e-3, probes=9, kernels={"loss": law},
    )  # fmt: skip
    for n in (1, 4, 100):
        times = {"loss": np.full(n, 1e-5)}
        deviation = math.sqrt(0.03**2 + 0.2**2 / n)
        assert c.deviation(times) == pytest.approx(deviation)
        assert c.interval(times).value == pytest.approx(n * 1e-5)
        assert c.interval(times).high == pytest.approx(n * 1e-5 * math.exp(QUANTILE * deviation))
    interval = around(2.0, 0.1)
    assert (
        interval.high / 2.0
        == pytest.approx(2.0 / interval.low)
        == pytest.approx(math.exp(QUANTILE * 0.1))
    )


@pytest.mark.slow
def test_intervals_cover_what_they_say() -> None:
    """Nine in ten steps of made-up devices lie in their intervals, none of them seen before."""
    inside = []
    held = [Probe(family, 950 + n, b, whole=True) for n in range(6)
            for family, b in (("mobile", 1), ("mobile", 8), ("residual", 1))]  # fmt: skip
    for seed in range(8):
        errors = {"common": 0.05, "own": 0.15, "seed": seed}
        spec = conclude(BASE, None, samples_of(noise=0.02, **errors)).spec  # type: ignore[arg-type]
        answers = device(noise=0.02, **errors)([probe.name for probe in held], 0.0)  # type: ignore[arg-type]
        known = spec.target().calibration.kernels
        for probe, answer in zip(held, answers["probes"], strict=True):
            program = probe.program()
            if all(operation_work(program, op)[4] in known for op in program.operations):
                predicted = step_seconds(program, spec.target())
                inside.append(
                    predicted.low <= statistics.median(answer["steps"]) / 1e9 <= predicted.high
                )
    assert len(inside) > 60
    assert 0.8 <= statistics.mean(inside) <= 0.98


def test_an_interval_says_how_noisy_the_device_is() -> None:
    quiet, loud = calibrated(noise=0.01), calibrated(noise=0.01, common=0.2)
    assert loud.calibration.common > 2 * max(quiet.calibration.common, 0.05)


# Price.


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_table_and_program_agree_on_a_calibrated_device(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    step = data.draw(steps(graph))
    program = compile_program(graph, data.draw(plans(graph)), step)
    kernels = {operation_work(program, op)[4] for op in program.operations}
    some = sorted(kernels)[::2] or sorted(kernels)
    laws = {}
    for kernel in some:
        overhead, a_mac, a_byte = true_law(kernel)
        laws[kernel] = Law(overhead_s=overhead, s_per_mac=a_mac, s_per_byte=a_byte, spread=0.1)
    calibration = Calibration(
        conditions=CONDITIONS, taken="now", step_factor=1.25, common=0.03, noise_floor=0.01,
        yardstick_s=1e-3, probes=9, kernels=laws,
    )  # fmt: skip
    target = BASE.target().model_copy(update={"calibration": calibration})
    table = build_table(graph, step, timer=target)
    total = step_seconds(program, target)
    assert table.price_plan(program.plan).step_s[0] == pytest.approx(total.value)
    assert total.low <= total.value <= total.high


def test_what_was_not_measured_is_priced_as_before() -> None:
    spec = calibrated().spec
    plain = spec.target().model_copy(update={"calibration": None})
    work = ("elementwise", "forward", 0.0, 1e6)
    assert spec.target().operation_seconds(*work, kernel="tanh forward") == plain.operation_seconds(
        *work
    )
    assert spec.target().operation_seconds(*work) == plain.operation_seconds(*work)


def test_what_was_not_measured_has_a_wide_interval() -> None:
    """A kernel without a law is priced at the rate of its kind and direction, give or take two."""
    target = calibrated(noise=0.01).spec.target()
    for kind, direction in (("elementwise", "forward"), ("convolution", "weight_gradient")):
        work = (kind, direction, 0.0 if kind == "elementwise" else 1e8, 1e7)
        found = target.operation_interval(*work, kernel="one that was not measured")
        rest = found.value - target.overhead.value
        assert found.high > target.overhead.value + 1.5 * rest
        assert found.low < target.overhead.value + rest / 1.5


def test_plain_rates_are_of_operations_that_are_mostly_work() -> None:
    """Tiny operations are all overhead: they make no bandwidth that the device does not have."""
    target = calibrated(noise=0.01).spec.target()
    fastest = max(1 / true_law(kernel)[2] for kernel in target.calibration.kernels)
    assert target.bandwidth.value < 1.2 * fastest
    rates = target.throughput.elementwise
    assert all(quantity.value <= target.bandwidth.value for _, quantity in rates)


# Choosing.


def test_probes_are_the_same_each_time_and_found_by_name() -> None:
    for probe in (*candidates(7), *checks()[:3], references()[0]):
        assert parse_probe(probe.name) == probe
        again = _compiled.__wrapped__(parse_probe(probe.name))
        assert [op.name for op in again.operations] == [
            op.name for op in probe.program().operations
        ]
        assert again.plan == probe.program().plan
    assert not {p.name for p in checks()} & {p.name for p in references()}
    for name in ("", "mobile", "mobile-x-b1", "mobile-1-b0", "nonsense-1-b1"):
        with pytest.raises(InputError, match="probe"):
            parse_probe(name)


def test_probes_reach_every_kind_and_direction() -> None:
    reached = {work[:2] for probe in candidates(40) for work in _works(probe)}
    for kind in ("convolution", "depthwise_convolution", "pointwise_convolution", "linear"):
        for direction in ("forward", "input_gradient", "weight_gradient"):
            assert (kind, direction) in reached
    assert {("matmul", "forward"), ("elementwise", "update"), ("elementwise", "keep")} <= reached


FREE = {"input", "reshape"}
"""Kinds that a step has no operation of."""


def _families(programs: Iterable[TrainingProgram]) -> set[str]:
    return {
        family(operation_work(program, op)[4]) for program in programs for op in program.operations
    }


@cache
def probed() -> frozenset[str]:
    """What some probe has an operation of."""
    return frozenset(_families(p.program() for p in (*candidates(160), *checks(), *assorted())))


def test_every_kind_of_operator_has_a_probe() -> None:
    """Enumerated: whoever adds an operator is told that no probe has it."""
    kinds = {name.partition(" ")[0] for name in probed()}
    assert OPERATORS.keys() - FREE <= kinds
    for optimizer in OPTIMIZER_STATES:
        assert any(f"update, {optimizer}" == work[4] for p in candidates(40) for work in _works(p))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_operation_of_any_plan_has_a_probe_of_its_kind_and_direction(
    data: st.DataObject,
) -> None:
    graph = data.draw(graphs())
    step = data.draw(steps(graph))
    assert _families([compile_program(graph, data.draw(plans(graph)), step)]) <= probed()


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_operation_of_a_built_in_network_has_a_probe(network: str) -> None:
    graph = architecture_graph(network)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(optimizer="adam"))
    assert _families([program]) <= probed()


@pytest.mark.slow
def test_a_calibration_runs_the_rare_kinds_too(tmp_path: Path) -> None:
    found = calibrate(request(tmp_path / "s.json", probes=6))
    assert any(one.probe.family == "assorted" for one in seen(found.samples))
    assert "tanh forward" in found.calibration.kernels


def _works(probe: Probe) -> list[tuple[str, str, float, float, str]]:
    program = probe.program()
    return [operation_work(program, op) for op in program.operations]


def test_the_next_probe_is_where_the_doubt_is() -> None:
    target = BASE.target()
    goals = [rows_of(Probe("mobile", 1, 1, whole=True), target)]
    doubt = Doubt(goals)
    pool = {probe: rows_of(probe, target) for probe in candidates(12)}
    first = next_probe(doubt, pool, 1e9, 1e-9)
    assert first is not None
    assert first.family == "mobile"  # what the goals are made of
    before = doubt.gain(pool[first])
    doubt.learn(pool[first])
    assert 0 < doubt.gain(pool[first]) < before
    assert next_probe(doubt, pool, 0.0, 1e-9) is None


def test_learning_never_raises_doubt() -> None:
    doubt = Doubt([rows_of(probe, BASE.target()) for probe in references()[:3]])
    for probe in candidates(10):
        rows = rows_of(probe, BASE.target())
        assert doubt.gain(rows) >= -1e-12
        doubt.learn(rows)


# A run.


def request(path: Path, **more: Any) -> CalibrationRequest:
    defaults: dict[str, Any] = {
        "runner": device(noise=0.01), "samples": path, "probes": 10, "time_limit_s": 60.0,
        "pool": 14,
    }  # fmt: skip
    return CalibrationRequest(BASE, **(defaults | more))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, told = tmp_path / "s.json", device(noise=0.01)
    calls: list[str] = []

    def breaks(names: Sequence[str], seconds: float) -> dict[str, Any]:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.extend(names)
        return told(names, seconds)

    with pytest.raises(KeyboardInterrupt):
        calibrate(request(path, runner=breaks))
    assert [r.name for r in read_samples(path).probes] == calls
    with pytest.raises(InputError, match=r"s\.json: holds measurements.*--resume"):
        calibrate(request(path))

    def counts(names: Sequence[str], seconds: float) -> dict[str, Any]:
        calls.extend(names)
        return told(names, seconds)

    found = calibrate(request(path, runner=counts, resume=True))
    assert sorted(calls) == sorted(2 * list(dict.fromkeys(calls)))  # twice each, none a third time
    assert len(set(calls)) == found.calibration.probes == 10
    assert read_samples(path) == found.samples


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"threads": 4}, "threads 1 and 4"),
        ({"cpu": "another"}, "cpu a made-up processor and another"),
        ({"governor": "powersave"}, "governor None and powersave"),
        ({"versions": {"costsim": "0", "torch": "9"}}, "torch 0 and 9"),
    ],
)
def test_runs_under_other_conditions_are_not_mixed(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path, runner = tmp_path / "s.json", device()
    kept = json.dumps(samples_of(PROBES[:3]).to_json())
    path.write_text(kept)

    def elsewhere(names: Sequence[str], seconds: float) -> dict[str, Any]:
        found = runner(names, seconds)
        return {**found, "conditions": {**found["conditions"], **change}}

    with pytest.raises(InputError, match="other conditions") as caught:
        calibrate(request(path, runner=elsewhere, resume=True))
    assert told in str(caught.value)
    assert path.read_text() == kept


def test_load_and_temperature_may_differ() -> None:
    warm = CONDITIONS.model_copy(update={"temperature_c": 70.0, "load": 3.0, "clock_hz": 1e9})
    assert list(CONDITIONS.differences(warm)) == []


def test_the_worst_clock_and_temperature_are_kept_and_told() -> None:
    cool = CONDITIONS.model_copy(update={"clock_hz": 1.4e9, "temperature_c": 50.0})
    hot = CONDITIONS.model_copy(update={"clock_hz": 0.6e9, "temperature_c": 84.0})
    samples = samples_of()
    ends = [samples.model_copy(update={"conditions": each}) for each in (cool, hot, cool)]
    whole = ends[0]
    for more in ends[1:]:
        whole = whole.with_readings(more, "s.json")
    conditions = whole.conditions
    assert (conditions.clock_hz, conditions.temperature_c) == (1.4e9, 50.0)
    assert (conditions.slowest_clock_hz, conditions.hottest_c) == (0.6e9, 84.0)
    (told,) = conclude(BASE, None, whole).warnings
    assert "the clock fell from 1400 to 600 MHz" in told


def test_the_residuals_behind_the_intervals_are_in_the_file(tmp_path: Path) -> None:
    """Of probes left out, by name; from them comes what all operations of a step share."""
    found = calibrated(noise=0.01, common=0.2)
    path = tmp_path / "mine.yaml"
    write_device(path, found.spec)
    residuals = yaml.safe_load(path.read_text())["targets"]["cpu"]["calibration"]["left_out"]
    assert residuals.keys() == {probe.name for probe in checks()[:8]}
    assert statistics.pstdev(residuals.values()) == pytest.approx(0.2, rel=0.7)
    quiet = calibrated(noise=0.01).calibration.left_out
    assert statistics.pstdev(quiet.values()) < 0.5 * statistics.pstdev(residuals.values())


def test_a_noisy_machine_is_told() -> None:
    assert calibrated().warnings == ()
    samples = samples_of()
    probes = list(samples.probes)
    for index in range(0, len(probes), 2):
        slow = tuple(2 * n for n in probes[index].yardstick)
        probes[index] = probes[index].model_copy(update={"yardstick": slow})
    noisy = samples.model_copy(update={"probes": tuple(probes)})
    assert noise_floor(noisy) == pytest.approx(1 / 1.5)  # 2 against 1, over their mean
    assert "too noisy to trust" in conclude(BASE, None, noisy).warnings[0]


def test_a_slow_hour_is_taken_out_by_the_yardstick() -> None:
    samples = samples_of(visits=1)
    slow = [
        one.model_copy(
            update={
                "steps": tuple(3 * n for n in one.steps),
                "yardstick": tuple(3 * n for n in one.yardstick),
                "operations": tuple(tuple(3 * n for n in row) for row in one.operations),
            }
        )
        if index % 3 == 0
        else one
        for index, one in enumerate(samples.probes)
    ]
    mixed = samples.model_copy(update={"probes": tuple(slow)})
    for before, after in zip(seen(samples), seen(mixed), strict=True):
        assert after.step_s == pytest.approx(before.step_s, rel=1e-6)


def test_too_few_probes_are_no_calibration() -> None:
    with pytest.raises(InputError, match="at least 6 are needed"):
        conclude(BASE, None, samples_of(PROBES[:5]))


# The file.


def test_a_calibrated_device_round_trips(tmp_path: Path) -> None:
    found = calibrated(noise=0.02)
    path = tmp_path / "mine.yaml"
    write_device(path, found.spec)
    again = load_device(path)
    assert again == found.spec
    assert again.provenance_counts()["calibrated"] > 10
    calibration = again.target().calibration
    assert calibration.conditions == CONDITIONS
    law = calibration.kernels["loss"]
    assert len(law.samples.split(",")) == len(PROBES)  # one loss a probe


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("kernels.loss.overhead_s", -1.0, "greater than or equal to 0"),
        ("kernels.loss.overhead_s", "fast", "number"),
        ("kernels.loss.s_per_mac", float("nan"), "finite"),
        ("kernels.loss.samples", "1 2", "MACs bytes seconds"),
        ("kernels.loss.samples", "1 2 0", "MACs bytes seconds"),
        ("kernels.loss", {"overhead_s": 0.0, "s_per_mac": 0.0, "s_per_byte": 0.0, "spread": 0.1},
         "all three terms are zero"),
        ("kernels", {}, "at least one kernel"),
        ("kernels.loss.overhead_s", 1.0, "times the seconds of its own samples"),
        ("kernels.los", {"overhead_s": 1e-5, "s_per_mac": 0.0, "s_per_byte": 0.0, "spread": 0.1},
         "'los' is no kernel; did you mean 'loss'?"),
        ("step_factor", 0.0, "greater than 0"),
        ("step_factor", 1e30, "less than 1000"),
        ("common", 50.0, "less than or equal to 10"),
        ("conditions.threads", 0, "greater than or equal to 1"),
        ("conditions.threads", 3, "3, but the target has 1 threads"),
        ("kernals", 3, "did you mean 'kernels'"),
    ],
)  # fmt: skip
def test_a_calibration_edited_into_nonsense_is_refused(
    tmp_path: Path, key: str, value: Any, words: str
) -> None:
    path = tmp_path / "mine.yaml"
    write_device(path, calibrated(noise=0.02).spec)
    document = yaml.safe_load(path.read_text())
    node = document["targets"]["cpu"]["calibration"]
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError) as caught:
        load_device(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: targets.cpu.calibration")
    assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "costsim.samples/9"}, "costsim.samples/1"),
        ({"probes": [{"name": "nonsense-1-b1"}]}, "probes"),
        ({"conditions": None}, "conditions"),
    ],
)
def test_readings_edited_into_nonsense_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**samples_of(PROBES[:1]).to_json(), **change}))
    with pytest.raises(InputError, match=words) as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("steps", [float("nan")], "steps.0: Input should be a valid integer"),
        ("steps", [0], "steps.0: Input should be greater than 0"),
        ("steps", [10**30], "steps.0: Input should be less than"),
        ("steps", [], "steps: "),
        ("yardstick", [0], "yardstick.0: Input should be greater than 0"),
        ("yardstick", [-3], "yardstick.0"),
        ("operations", [[0] * 99], "operations: operations of 0 ns do not make a step of"),
        ("operations", [[-1]], "operations.0.0"),
        ("operations", [], "operations"),
        ("operations", "fast", "operations"),
        ("name", 3, "name"),
        ("mood", 3, "mood"),
    ],
)
def test_readings_that_no_clock_shows_are_refused(
    tmp_path: Path, key: str, value: Any, words: str
) -> None:
    document = samples_of(PROBES[:1]).to_json()
    document["probes"][0][key] = value
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"s\.json: probes\.0\.") as caught:
        calibrate(request(path, resume=True))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_file_of_no_readings_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**samples_of(PROBES[:1]).to_json(), "probes": []}))
    assert calibrate(request(path, resume=True, probes=6)).calibration.probes == 6


def test_readings_of_another_program_are_refused(tmp_path: Path) -> None:
    document = samples_of(PROBES[:1]).to_json()
    step = document["probes"][0]["steps"][0]
    document["probes"][0]["operations"] = [[step, 2, 3]]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"s\.json: probes: .* operations"):
        read_samples(path)


# Refining.


def measured(ratio: float, deviation: float, when: str = "2026") -> MeasuredStep:
    predicted = around(1e-2, deviation)
    return MeasuredStep("m.json", "net", "local", when, ratio * predicted.value, predicted)


def test_one_step_moves_a_spec_by_what_it_was_trusted_less() -> None:
    pi = load_device("pi-zero-2")
    step = measured(2.0, 0.6)
    prior, noise = 0.6**2, (0.6 / 2) ** 2
    expected = math.exp(prior * math.log(2.0) / (prior + noise))
    found = refine(pi, [step])
    assert found.factor == pytest.approx(expected)
    rate, before = (s.target().throughput.linear.forward for s in (found.spec, pi))
    assert rate.value == pytest.approx(before.value / expected)
    assert rate.provenance == "calibrated"
    assert rate.low < rate.value < rate.high
    assert found.spec.target().overhead.value == pytest.approx(
        pi.target().overhead.value * expected
    )


def test_many_steps_outweigh_what_was_believed() -> None:
    spec = calibrated(noise=0.02).spec
    steps_ = [measured(ratio, 0.05) for ratio in (1.28, 1.3, 1.32) * 20]
    found = refine(spec, steps_)
    assert found.factor == pytest.approx(1.3, rel=0.02)
    before, after = (s.target().calibration for s in (spec, found.spec))
    assert after.step_factor == pytest.approx(before.step_factor * found.factor)
    assert after.kernels == before.kernels


def test_nothing_measured_refines_nothing() -> None:
    with pytest.raises(InputError, match="no measured steps"):
        refine(load_device("pi-zero-2"), [])


# Drift.


def month(*ratios: float, target: str = "local") -> list[MeasuredStep]:
    """A step a day."""
    found = [measured(r, 0.05, f"2026-01-{n:02}T12:00:00") for n, r in enumerate(ratios, 1)]
    return [replace(step, target=target) for step in found]


def test_the_drift_is_told() -> None:
    told = sentence(month(1.0, 1.02, 1.3, 1.4))
    assert "2 within the predicted interval" in told
    assert "earlier half has 1.01, the later half 1.35" in told
    assert "Calibrate again" in told


def test_steps_on_another_machine_are_not_judged() -> None:
    """Neither counted, nor drawn, nor a reason to calibrate again."""
    elsewhere = [replace(step, unlike="threads 1, not 128") for step in month(9.0, 8.0, 7.0)]
    steps = [*month(1.0, 1.01), *elsewhere]
    told = sentence(steps)
    assert "2 measured steps: median ratio 1.00, 2 within" in told
    assert "3 measured steps on another machine than predicted for (threads 1, not 128)" in told
    assert "Calibrate again" not in told
    assert drift_svg(steps).count("<use") == drift_svg(month(1.0, 1.01)).count("<use")
    assert render_drift_page(steps).count("not judged</td>") == 3
    alone = sentence(elsewhere)
    assert "median" not in alone
    assert "Calibrate again" not in alone
    assert "<svg" not in render_drift_page(elsewhere)
    with pytest.raises(InputError, match="nothing to draw: 3 measured steps on another machine"):
        drift_svg(elsewhere)


def test_what_was_off_once_and_is_right_now_needs_no_calibration() -> None:
    assert "Calibrate again" not in sentence(month(1.5, 1.5, 1.5, 1.0, 1.01, 0.99))


def test_one_device_that_drifts_is_not_hidden_by_the_others() -> None:
    steps = [*month(*[1.0] * 20), *month(2.0, 2.0, target="ssh://pi@10.0.0.7")]
    told = sentence(steps)
    assert "ssh://pi@10.0.0.7: 2 measured steps: median ratio 2.00, 0 within" in told
    assert "Calibrate again" in told


def test_the_drift_is_drawn_over_time_a_panel_a_target() -> None:
    """Marks as many as steps, further apart where more time went by; the same bytes each time."""
    steps = [*month(1.0, 1.02, 1.3), *month(0.98, 1.4, target="ssh://pi@10.0.0.7")]
    steps[2] = replace(steps[2], when="2026-01-11T12:00:00")
    svg = drift_svg(steps)
    assert svg == drift_svg(steps)
    assert svg.count('class="mark"') == len(steps)
    root = ET.fromstring(svg)
    text = "".join(root.itertext())
    assert all(target in text for target in ("local", "ssh://pi@10.0.0.7", "measured, outside"))
    blue, red = (
        [
            (float(mark.get("x") or 0), float(mark.get("y") or 0))
            for mark in root.iter(f"{{{SVG}}}use")
            if colour in (mark.get("style") or "")
        ]
        for colour in (COLOURS["kept"], COLOURS["limit"])
    )
    assert (len(blue), len(red)) == (3 + 1, 2 + 1)  # those of the legend too
    # The first panel: the first, the second a day later, and one outside after nine days more.
    days = (red[0][0] - blue[0][0]) / (blue[1][0] - blue[0][0])
    assert days == pytest.approx(10.0, rel=1e-2)
    assert red[0][1] < blue[1][1] < blue[0][1]  # slower is higher


def test_the_page_of_a_drift_needs_no_other_file(tmp_path: Path) -> None:
    steps = [*month(1.0, 1.3), *month(0.98, target="<b>&")]
    path = tmp_path / "drift.html"
    write_drift_page(path, steps)
    page = path.read_text()
    assert page.count("<tr>") == 1 + len(steps)
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "src=" not in page
    assert "2026-01-02 12:00" in page


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"m\.json: started: 'soon' is no time"):
        drift_svg([measured(1.0, 0.1, "soon")])


# The command.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out"),
        (["--out", "nowhere/x.yaml"], "nowhere"),
        (["--out", "x.yaml", "--threads", "0"], "--threads is 0"),
        (["--out", "x.yaml", "--probes", "5"], "--probes is 5; at least 6 are needed"),
        (["--out", "x.yaml", "--report", "y.html"], "--report: goes with --drift"),
        (["--out", "x.yaml", "--time-limit", "0s"], "--time-limit"),
        (["--out", "x.yaml", "--device", "toaster"], "toaster"),
        (["--on", "ssh://a", "--on", "ssh://b", "--out", "x.yaml"], "--out: one each"),
        (["--on", "ssh://a", "--on", "ssh://a", "--out", "x", "--out", "y"], "ssh://a is given"),
        (["--on", "ssh://a", "--on", "ssh://b", "--out", "x", "--out", "x"], "x is given twice"),
        (["--on", "unicorn:cortex-m7", "--out", "x.yaml"], "it does not time"),
        (["--out", "x.yaml", "--compute-target", "gpu"], "--compute-target: give --device too"),
        (["--out", "x.yaml", "m.json"], "--from or --drift"),
        (["--from", "--out", "x.yaml"], "costsim measure --out"),
        (["--from", "m.json", "--out", "x.yaml"], "--device"),
        (["--from", "--drift", "m.json"], "one of them"),
        (["--drift", "m.json"], "m.json"),
    ],
)
def test_unusable_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interval_is_what_a_plan_s_prediction_has() -> None:
    step = around(1.0, 0.1)
    assert isinstance(step, Interval)
    assert MeasuredStep("", "", "", "", 1.1, step).holds
    assert not MeasuredStep("", "", "", "", 1.3, step).holds
