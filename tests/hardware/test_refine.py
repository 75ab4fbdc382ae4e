"""Refining a spec by measured steps: parts told apart where they can be, and only there."""

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from calibrating import CONDITIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from targeting import fork_jobs, write_plan

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.device import Calibration, DeviceSpec, Law, load_device
from costsim.hardware.calibration.attribution import Row, shift, tell_apart
from costsim.hardware.calibration.measured_steps import MeasuredStep, measured_steps
from costsim.hardware.calibration.parts import rescaled, step_parts
from costsim.hardware.calibration.power import Draw, draw_of
from costsim.hardware.calibration.probes import random_plan
from costsim.hardware.calibration.refinement import refine
from costsim.hardware.results.outcome import EnergyReading, Outcome
from costsim.hardware.results.record import Machine
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import operation_work, price, step_seconds

PI = load_device("pi-zero-2")
PARTS = (
    *(
        f"{kind}convolution {direction}"
        for kind in ("pointwise_", "depthwise_", "")
        for direction in ("forward", "input_gradient", "weight_gradient")
    ),
    *("overhead", "bandwidth", "elementwise forward"),
)
NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")


@cache
def program(number: int) -> TrainingProgram:
    """The step of a random plan of one of the networks, at one of two batch sizes."""
    network, batch = NETWORKS[number % 3], (1, 8)[number // 3 % 2]
    graph = architecture_graph(network, batch=batch)
    return compile_program(graph, random_plan(graph, random.Random(number)), TrainingStep(batch))


def work_of(program: TrainingProgram):
    return tuple(operation_work(program, op) for op in program.operations)


def measured(
    numbers: Sequence[int],
    believed: DeviceSpec,
    true: DeviceSpec,
    noise: float = 0.0,
    seed: int = 0,
) -> list[MeasuredStep]:
    """Steps as the true device takes them, each off by `noise`, predicted by the believed one."""
    rng = random.Random(seed)
    found = []
    for number in numbers:
        one = program(number)
        seconds = step_seconds(one, true.target()).value * rng.lognormvariate(0, noise)
        predicted = step_seconds(one, believed.target())
        name = NETWORKS[number % 3]
        found.append(MeasuredStep("m.json", name, "pi", "2026", seconds, predicted, work_of(one)))
    return found


def other(device: DeviceSpec, whole: float, **apart: float) -> DeviceSpec:
    """The device with other rates; parts as `depthwise_convolution__forward`."""
    factors = {part.replace("__", " "): factor for part, factor in apart.items()}
    return rescaled(
        device, device.default_target, whole=whole, apart=factors,
        deviation=lambda _part, before: before, common=0.0, told="made up",
    )  # fmt: skip


def error(spec: DeviceSpec, steps: Sequence[MeasuredStep]) -> float:
    """Root mean square of the logarithms of measured over predicted."""
    return math.sqrt(
        statistics.mean(
            math.log(s.measured_s / spec.target().total_seconds(s.work).value) ** 2 for s in steps
        )
    )


def whole_only(spec: DeviceSpec, steps: Sequence[MeasuredStep]) -> DeviceSpec:
    """What one factor makes of it."""
    errors = [math.log(step.ratio) for step in steps]
    spread = statistics.mean(
        math.log(s.predicted.high / s.predicted.low) / (2 * 1.645) for s in steps
    )
    return other(spec, math.exp(shift(errors, spread)[0]))


@cache
def laws(spread: float = 0.02) -> DeviceSpec:
    """The Pi with a made-up calibration that knows every kernel of the networks."""
    kernels = {
        work[4]: Law(
            overhead_s=1e-6,
            s_per_mac=5e-9 if work[0] == "depthwise_convolution" else 1e-9,
            s_per_byte=2e-10,
            spread=spread,
        )
        for number in range(6)
        for work in work_of(program(number))
    }
    calibration = Calibration(
        conditions=CONDITIONS, taken="2026", step_factor=1.0, common=0.05, noise_floor=0.01,
        yardstick_s=1e-3, probes=50, kernels=kernels,
    )  # fmt: skip
    document = PI.to_json()
    target = document["targets"][PI.default_target]
    target["calibration"] = calibration.model_dump(mode="json")
    target["threads"] = target["threads"] | {"value": CONDITIONS.threads}
    return DeviceSpec.from_json(document, "laws")


# Parts.


@pytest.mark.parametrize("device", ["pi-zero-2", "jetson-nano", "laws"])
def test_a_step_is_the_sum_of_its_parts(device: str) -> None:
    spec = laws() if device == "laws" else load_device(device)
    for number in range(6):
        parts = step_parts(work_of(program(number)), spec.target())
        total = step_seconds(program(number), spec.target()).value
        assert sum(parts.values()) == pytest.approx(total)
        assert min(parts.values()) > 0


@given(
    whole=st.floats(0.3, 3.0),
    factors=st.dictionaries(
        st.sampled_from(["depthwise_convolution forward", "overhead", "elementwise update",
                         "pointwise_convolution weight_gradient"]),
        st.floats(0.3, 3.0),
    ),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_rescaled_calibrated_device_takes_exactly_that_much(
    whole: float, factors: dict[str, float]
) -> None:
    """With laws every part is linear: the step is the sum of its parts times their factors."""
    spec = laws()
    changed = rescaled(
        spec, spec.default_target, whole=whole, apart=factors,
        deviation=lambda _part, before: before, common=0.05, told="made up",
    )  # fmt: skip
    for number in (0, 4):
        parts = step_parts(work_of(program(number)), spec.target())
        wanted = sum(whole * factors.get(part, 1.0) * s for part, s in parts.items())
        assert step_seconds(program(number), changed.target()).value == pytest.approx(wanted)


def test_the_whole_factor_scales_a_plain_device_exactly() -> None:
    for whole in (0.2, 5.0):
        changed = other(PI, whole)
        for number in (0, 3):
            before = step_seconds(program(number), PI.target()).value
            after = step_seconds(program(number), changed.target()).value
            assert after == pytest.approx(whole * before)


# What is told apart.


TRUE = {"depthwise_convolution__weight_gradient": 4.0, "pointwise_convolution__forward": 0.5}
FOUND = "depthwise_convolution weight_gradient"
"""Its share differs from plan to plan; all of them have the same forward pass."""


@pytest.mark.parametrize("device", ["plain", "laws"])
def test_rates_that_differ_are_found_and_new_plans_gain(device: str) -> None:
    """The oracle: a device of known other rates; twelve plans of it, others left for judgement."""
    believed = PI if device == "plain" else laws()
    true = other(believed, 1.4, **TRUE)
    steps = measured(range(12), believed, true, noise=0.02)
    found = refine(believed, steps)
    held = measured(range(12, 24), believed, true)
    assert found.plans == 12
    assert found.left_out is not None
    assert found.left_out[1] < 0.5 * found.left_out[0]
    assert error(found.spec, held) < 0.5 * error(whole_only(believed, steps), held)
    assert error(found.spec, held) < 0.06
    assert found.factor * 1.3 < found.apart[FOUND] < 1.4 * 4.0  # drawn towards the whole
    assert f"told apart: {next(iter(found.apart))} " in found.sentence


@pytest.mark.parametrize("device", ["plain", "laws"])
def test_exact_measurements_give_the_exact_rate(device: str) -> None:
    believed = PI if device == "plain" else laws()
    found = refine(believed, measured(range(30), believed, other(believed, 1.4, **TRUE)))
    assert found.apart[FOUND] == pytest.approx(1.4 * 4.0, rel=0.05)


def test_how_well_a_part_is_known_covers_what_is_true() -> None:
    """Each factor within twice and a half of its own standard deviation of the truth."""
    true = other(laws(), 1.4, **TRUE)
    for seed in range(3):
        steps = measured(range(18), laws(), true, noise=0.02, seed=seed)
        rows = [
            Row(step_parts(s.work, laws().target()), s.measured_s, s.predicted.value, s.model)
            for s in steps
        ]
        found = tell_apart(rows, 0.3)
        truth = {part.replace("__", " "): factor for part, factor in TRUE.items()}
        for part, g in found.apart.items():
            wanted = 1.4 * truth.get(part, 1.0)
            assert abs(found.whole * g - wanted) < 2.5 * found.whole * g * found.known[part], part


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_where_all_rates_are_off_alike_one_factor_stands(noise: float) -> None:
    true = other(PI, 1.7)
    steps = measured(range(12), PI, true, noise=noise, seed=1)
    found = refine(PI, steps)
    assert found.apart == {}
    assert found.factor == pytest.approx(1.7, rel=0.02 + noise)
    assert "cannot be told apart" in found.sentence


def test_few_plans_tell_nothing_apart() -> None:
    steps = measured((0, 0, 0, 1, 2), PI, other(PI, 1.0, **TRUE))
    found = refine(PI, steps)
    assert (found.plans, found.apart, found.left_out) == (3, {}, None)
    assert "too few different plans" in found.sentence


def test_runs_of_one_plan_count_once() -> None:
    """Ten runs of one plan say as much about other plans as one does."""
    true = other(PI, 2.0)
    once, often = (refine(PI, measured([0] * n, PI, true)) for n in (1, 10))
    assert once.factor == pytest.approx(often.factor)
    assert once.deviation == pytest.approx(often.deviation)


@settings(max_examples=4, deadline=None)
@given(
    factors=st.dictionaries(st.sampled_from(PARTS), st.floats(0.3, 3.0)),
    whole=st.floats(0.5, 2.0),
    noise=st.sampled_from([0.01, 0.05, 0.15]),
    count=st.integers(1, 24),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_telling_apart_is_never_worse_than_one_factor_beyond_noise(
    factors: Mapping[str, float], whole: float, noise: float, count: int, seed: int
) -> None:
    """The law: on plans left for judgement, whatever the truth is and however little was seen."""
    rng = random.Random(seed)
    true = rescaled(
        PI, PI.default_target, whole=whole, apart=factors,
        deviation=lambda _part, before: before, common=0.0, told="made up",
    )  # fmt: skip
    seen = rng.sample(range(36), count)
    steps = measured(seen, PI, true, noise=noise, seed=seed)
    held = measured([n for n in range(36) if n not in seen], PI, true)
    assert error(refine(PI, steps).spec, held) <= error(whole_only(PI, steps), held) + noise


def test_intervals_follow_what_was_seen() -> None:
    """Narrower where measured, as wide as before where nothing was."""
    found = refine(PI, measured(range(12), PI, other(PI, 1.4, **TRUE), noise=0.02)).spec
    before, after = PI.target().throughput, found.target().throughput

    def width(quantity):
        return quantity.interval.high / quantity.interval.low

    seen = "pointwise_convolution", "forward"
    assert width(getattr(getattr(after, seen[0]), seen[1])) < 0.5 * width(
        getattr(getattr(before, seen[0]), seen[1])
    )
    assert width(after.matmul.forward) == pytest.approx(width(before.matmul.forward))
    step = step_seconds(program(20), found.target())
    assert step.low < step_seconds(program(20), other(PI, 1.4, **TRUE).target()).value < step.high


def test_a_calibration_says_by_what_it_was_moved() -> None:
    spec = laws()
    found = refine(spec, measured(range(12), spec, other(spec, 1.2, **TRUE), noise=0.02))
    calibration = found.spec.target().calibration
    assert calibration is not None
    assert calibration.refined == "with 12 measured steps of 12 plans, by kind and direction"
    assert calibration.common == pytest.approx(found.deviation)
    again = refine(found.spec, measured(range(12), found.spec, other(spec, 1.2, **TRUE)))
    assert again.factor == pytest.approx(1.0, abs=0.03)


def test_nonsense_rows_give_one_factor() -> None:
    """Rows without parts, or all alike, are no reason to fall over."""
    alike = [Row({"a": 1.0, "b": 1.0}, 2.0, 2.0, f"n{i}") for i in range(8)]
    for rows in ([Row({}, 2.0, 1.0, "n")] * 8, alike):
        assert tell_apart(rows, 0.3).apart == {}


# Power.


def outcome(**watts: tuple[float, float]) -> Outcome:
    """Readings over two seconds: at work and at rest, by source."""
    return Outcome(
        target="local",
        how="measured",
        energy=tuple(
            EnergyReading(source=name.partition("_")[0], counter=name, total_j=2.0 * work,
                          seconds=2.0, per_step_j=0.1, idle_w=idle)
            for name, (work, idle) in watts.items()
        ),
    )  # fmt: skip


def test_counters_of_one_instrument_are_added_and_a_meter_of_the_board_goes_first() -> None:
    assert draw_of(outcome()) is None
    assert draw_of(outcome(RAPL_package=(9.0, 3.0), RAPL_dram=(1.0, 0.5))) == Draw(
        "RAPL", 10.0, 3.5
    )
    assert draw_of(outcome(RAPL_package=(9.0, 3.0), meter=(20.0, 12.0))) == Draw(
        "meter", 20.0, 12.0
    )


def test_power_is_what_was_measured_of_it() -> None:
    """Joules of a refined device are its seconds times the watts that the meter showed."""
    steps = measured([0, 1], PI, PI)
    draws = [Draw("meter", 2.0, 0.9), Draw("meter", 2.2, 0.9)]
    found = refine(PI, [replace(s, draw=d) for s, d in zip(steps, draws, strict=True)])
    power = found.spec.target().power
    assert (power.compute.value, power.idle.value) == (2.1, 0.9)
    assert power.compute.low == 2.0
    assert power.compute.high == pytest.approx(max(2.2, 2.1 * 1.05))
    assert power.compute.provenance == "calibrated"
    before = PI.target().power
    assert power.memory.value / before.memory.value == pytest.approx(2.1 / before.compute.value)
    assert found.sentence.endswith("The board draws 2.1 W at work (meter).")
    cost = price(program(0), found.spec)
    assert cost.on_device is not None
    assert cost.on_device.energy_j.value == pytest.approx(2.1 * cost.on_device.latency_s.value)


def test_a_counter_inside_the_processor_is_said_to_be_one() -> None:
    (step,) = measured([0], PI, PI)
    found = refine(PI, [replace(step, draw=Draw("RAPL", 1.5, None))])
    assert "sees the processor and its memory alone" in found.sentence
    assert found.spec.target().power.idle == PI.target().power.idle
    assert refine(PI, [step]).spec.target().power == PI.target().power


# What must not be mixed.


def machine(**change: object) -> Machine:
    given = {"cpu": "a", "cores": 4, "threads": 1, "memory_bytes": 1, "system": "Linux"}
    return Machine.model_validate(given | change)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"cpu": "b"}, "cpu b and a"), ({"threads": 4}, "threads 4 and 1"), ({"cores": 2}, "cores")],
)
def test_steps_of_other_conditions_are_not_mixed(change: dict[str, object], told: str) -> None:
    one, two = measured([0, 1], PI, PI)
    steps = [
        replace(one, source="a.json", machine=machine()),
        replace(two, source="b.json", machine=machine(**change)),
    ]
    with pytest.raises(
        InputError, match=r"b\.json: measured under other conditions than"
    ) as caught:
        refine(PI, steps)
    assert told in str(caught.value)


def test_a_calibration_is_not_refined_by_another_machine() -> None:
    spec = laws()
    (one,) = measured([0], spec, spec)
    ours = machine(cpu=CONDITIONS.cpu, cores=CONDITIONS.cores)
    refine(spec, [replace(one, machine=ours)])
    with pytest.raises(InputError, match="than the spec was calibrated under"):
        refine(spec, [replace(one, machine=machine())])


def test_a_spec_of_four_threads_is_not_refined_by_one() -> None:
    (one,) = measured([0], PI, PI)
    threads = int(PI.target().threads.value)
    refine(PI, [replace(one, machine=machine(threads=threads))])
    with pytest.raises(InputError, match=f"on 1 threads, but the spec is of {threads}: measure"):
        refine(PI, [replace(one, machine=machine())])


# The command.


def test_a_step_that_cannot_be_of_this_device_is_refused() -> None:
    (one,) = measured([0], PI, PI)
    for seconds in (1e9, 1e-12):
        with pytest.raises(InputError, match=r"m\.json: a step of .* were predicted: not this"):
            refine(PI, [replace(one, measured_s=seconds)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "costsim.plan/1"}, "allowed are costsim.measurements/1 (costsim measure"),
        ({"runs": []}, "runs: none has a timed step"),
        ({"plan": {}}, "m.json: plan"),
        ({"seconds": [0.0]}, "a step of 0.0 s"),
        ({"seconds": [float("nan")]}, "finite"),
        ({"started": "soon"}, "'soon' is no time"),
    ],
)
def test_measurements_edited_into_nonsense_refine_nothing(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    document = json.loads(files[1].read_text())
    for run in document["runs"]:
        run["started"] = change.get("started", run["started"])
        if "seconds" in change:
            run["outcome"]["processor_step_s"] = change["seconds"]
    for key in ("schema", "runs", "plan"):
        document[key] = change.get(key, document[key])
    path, out = tmp_path / "m.json", tmp_path / "o.yaml"
    path.write_text(json.dumps(document))
    asked = ["calibrate", "--from", str(path), "--device", "stm32h743", "--out", str(out)]
    assert main(asked) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert str(path) in line
    assert not out.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A plan, what `measure` found of it, and what `validate` did."""
    folder = tmp_path_factory.mktemp("files")
    plan = write_plan(folder)
    out = folder / "m.json"
    with pytest.MonkeyPatch.context() as patch:
        fork_jobs(patch)
        asked = ["measure", str(plan), "--steps", "4", "--repeats", "2", "--out", str(out)]
        assert main(asked) == 0
    found = folder / "v.json"
    assert main(["validate", str(plan), "--steps", "4", "--measurement", str(found)]) in (0, 1)
    return plan, out, found


def test_both_commands_measurements_refine_a_spec(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, measured_file, validated = files
    out = tmp_path / "refined.yaml"
    asked = ["calibrate", "--from", str(measured_file), str(validated), "--device", "stm32h743"]
    assert main([*asked, "--out", str(out)]) == 2
    assert "v.json: written by costsim validate, without its plan: give that with --plan" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    assert main([*asked, "--plan", str(plan), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["steps"], told["plans"], told["apart"]) == (3, 1, {})
    steps = measured_steps([measured_file, validated], load_device(out), plans=[plan])
    before = measured_steps([measured_file, validated], load_device("stm32h743"), plans=[plan])
    assert abs(math.log(steps[0].ratio)) < abs(math.log(before[0].ratio))
    assert [s.machine for s in steps] == [before[0].machine] * 3


def test_the_plan_must_be_of_the_step_that_was_measured(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, _, validated = files
    (tmp_path / "other").mkdir()
    another = write_plan(tmp_path / "other", batch=2)
    document = json.loads(another.read_text())
    document["layers"] = document["layers"][:1]
    another.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is of another step"):
        measured_steps([validated], PI, plans=[another])
