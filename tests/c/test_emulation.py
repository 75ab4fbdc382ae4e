"""Training steps on an emulated Cortex-M7: what is predicted is what happens, byte for byte."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from channel_plans import late_plan
from emulating import (
    arrays,
    batches,
    board,
    check_emulated,
    check_observed,
    needs_emulator,
    trial_of,
)
from graphs import GraphBuilder, chain, graphs, plans, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import traced
from running import copies, random_tensors, with_statistics
from waiting import PATIENCE_S

from costsim.base.errors import InputError
from costsim.c.emission import emit
from costsim.c.emulation.build import DoesNotFit, build_firmware
from costsim.c.emulation.elf import read_image
from costsim.c.emulation.emulator import EmulatedFault, Emulator, EmulatorLost
from costsim.c.emulation.stack import stack_bound
from costsim.c.emulation.thumb import decode
from costsim.c.emulation.toolchain import find_compiler
from costsim.c.emulation.trial import LayerFault, Trial, least_memory
from costsim.hardware.results.emulated_step import EmulatedStep
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Mean
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, memory_timeline, plan_arena
from costsim.ir.step import OPTIMIZER_STATES, BitWidths, TrainingStep
from costsim.run.execution.forward import evaluate


@pytest.fixture(autouse=True)
def emulator() -> None:
    needs_emulator()


# Small graphs.


def check_drawn(data) -> None:
    graph = with_statistics(data.draw(graphs()))
    step = replace(data.draw(steps(graph)), bits=BitWidths())
    program = compile_program(graph, data.draw(plans(graph)), step)
    check_emulated(program, random_tensors(graph, torch.float32), steps=2)


@settings(max_examples=3)
@given(st.data())
def test_drawn_programs_do_what_is_predicted(data) -> None:
    check_drawn(data)


@pytest.mark.slow
@settings(max_examples=80)
@given(st.data())
def test_many_drawn_programs_do_what_is_predicted(data) -> None:
    check_drawn(data)


@pytest.mark.parametrize("optimizer", OPTIMIZER_STATES)
def test_every_optimizer_steps_as_in_pytorch(optimizer) -> None:
    graph = chain(batch=2)
    step = TrainingStep(4, micro_batch=2, optimizer=optimizer)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    check_emulated(program, random_tensors(graph, torch.float32), steps=4)


def test_live_bytes_are_those_planned_at_every_operation() -> None:
    """In a chain of layers nothing is kept that is read in part, so that both are equal."""
    graph = chain(batch=2)
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(2, optimizer="adam"))
    trial = trial_of(program, random_tensors(graph, torch.float32))
    with trial:
        observed = trial.observe(*batches(program, 1)[0])
    step = EmulatedStep(program, board()[0], trial.firmware, observed)
    assert step.liveness.live_bytes.tolist() == memory_timeline(program).total_bytes.tolist()
    assert step.measurement("chain").kept_bytes == sum(b.bytes for b in program.kept())
    deepest = stack_bound(trial.emulator.image, "costsim_train_step")
    assert observed.stack_bytes == deepest <= observed.stack_bound_bytes  # of every function
    again = EmulatedStep(program, board()[0], trial.firmware, observed)
    assert again.latency_s == step.latency_s
    assert step.latency_s.low < step.latency_s.value < step.latency_s.high


def test_predictions_are_pytorchs() -> None:
    graph = chain(batch=2)
    tensors = random_tensors(graph, torch.float32)
    program = compile_program(
        graph, UpdatePlan(biases=frozenset({graph.calls[1].layer})), TrainingStep(2)
    )
    x, labels = batches(program, 1)[0]
    exactly = {name: tensor.double() for name, tensor in tensors.items()}
    wanted = evaluate(graph, exactly, torch.from_numpy(x).double())[0].numpy()
    with trial_of(program, tensors) as trial:
        found = trial.predict(x)
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
        with pytest.raises(InputError, match="the program is for"):
            trial.step(x[:1], labels)


# The three networks.

NETWORKS = [
    ("mcunet-5fps", 32, "stm32h743"),
    pytest.param("mbv2-w0.35", 32, "stm32h743", marks=pytest.mark.slow),
    pytest.param("proxyless-w0.3", 32, "stm32h743", marks=pytest.mark.slow),
    pytest.param("mcunet-5fps", 64, "stm32h743", marks=pytest.mark.slow),
    pytest.param("mbv2-w0.35", 64, "stm32h743", marks=pytest.mark.slow),
    pytest.param("proxyless-w0.3", 64, "stm32h743", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "side", "device"), NETWORKS)
def test_the_networks_do_what_is_predicted(name, side, device) -> None:
    network = traced(name, side=side)
    program = compile_program(network.graph, late_plan(network.graph), TrainingStep())
    check_emulated(program, copies(network.tensors), steps=1, device=device)


# Limits.


def wide_network(channels: int = 11, side: int = 96) -> LayerGraph:
    """A network with a few large activations."""
    g = GraphBuilder()
    x = g.input(1, 3, side, side)
    x = g.relu(g.conv(x, channels, 3, stride=2))
    x = g.conv(g.conv(x, 4, 1), 6, 3, stride=4)
    g.add(Mean((2, 3)), (x,))
    return g.graph()


def limit_case():
    """A program for the 320 KiB of the STM32F746, its weights, and the least RAM it needs."""
    graph = wide_network()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(optimizer="adam"))
    tensors = random_tensors(graph, torch.float32)
    _, memory = board()
    least = least_memory(program, arrays(tensors), memory, stack_bytes=1024)
    return program, tensors, memory, least


def test_a_program_at_the_limit_runs_and_one_byte_less_is_refused_twice() -> None:
    program, tensors, memory, least = limit_case()
    limit = memory.arena.size_bytes
    assert limit == 320 * 1024
    # The stack takes what is left: every byte of the 320 KiB is somebody's.
    stack = 1024 + limit - least
    assert stack % 8 == 0
    assert plan_arena(program).size_bytes + 24 + stack == limit
    with trial_of(program, tensors, stack_bytes=stack) as trial:
        observed = trial.observe(*batches(program, 1)[0])
    assert np.isfinite(observed.loss)
    assert observed.arena_end_bytes == plan_arena(program).size_bytes
    arena_address, arena_bytes = read_image(trial.firmware.elf).arena
    assert arena_address + arena_bytes == memory.arena.end
    # The linker refuses,
    with pytest.raises(DoesNotFit, match=r"fit in region 'RAM'(: overflowed by 1 bytes)?$"):
        trial_of(program, tensors, memory.limited(limit - 1), stack_bytes=stack)
    with pytest.raises(DoesNotFit, match=r"fit in region 'RAM'(: overflowed by 8 bytes)?$"):
        trial_of(program, tensors, stack_bytes=stack + 8)
    # and, linked for more, so does the memory: by the page of the emulator and by the byte.
    roomy = trial_of(program, tensors, memory.limited(limit + 4096), stack_bytes=stack + 8)
    for firmware, ram in ((roomy.firmware, limit), (trial.firmware, limit - 1)):
        with pytest.raises(LayerFault) as caught:
            run_within(program, tensors, firmware, memory.limited(ram))
        fault = caught.value.fault
        assert fault.address + fault.size > memory.arena.address + ram
        assert fault.symbol
        # What is placed last are weights, and costsim_init is the first to write there.
        assert caught.value.buffer in {buffer.name for buffer in program.buffers}
        assert caught.value.layer in program.graph.layers
        for told in (f"{fault.pc:#010x}", repr(caught.value.layer), fault.symbol):
            assert told in str(caught.value)


def run_within(program, tensors, firmware, memory) -> None:
    with Trial(program, arrays(tensors), firmware, memory=memory) as trial:
        trial.observe(*batches(program, 1)[0])


def test_a_program_counter_of_a_fault_is_that_of_a_store() -> None:
    program, tensors, memory, least = limit_case()
    trial = trial_of(program, tensors, stack_bytes=1024)
    for ram in (least - 1, least - 4097):
        with pytest.raises(LayerFault) as caught:
            run_within(program, tensors, trial.firmware, memory.limited(ram))
        fault, image = caught.value.fault, read_image(trial.firmware.elf)
        (found, *_) = decode(image.code(fault.pc, 4)[: 4 if is_wide(image, fault.pc) else 2])
        assert "write" in fault.kind
        assert "store" in found.kind


def is_wide(image, address) -> bool:
    return int.from_bytes(image.code(address, 2), "little") >> 11 in (29, 30, 31)


@pytest.mark.slow
def test_too_deep_a_stack_faults_below_the_memory() -> None:
    program, tensors, memory, _ = limit_case()
    with trial_of(program, tensors) as trial:
        needed = trial.observe(*batches(program, 1)[0]).stack_bytes
    enough = -(-needed // 8) * 8
    with trial_of(program, tensors, stack_bytes=enough) as trial:
        trial.step(*batches(program, 1)[0])
    with (
        pytest.raises(LayerFault) as caught,
        trial_of(program, tensors, stack_bytes=enough - 8) as trial,
    ):
        trial.step(*batches(program, 1)[0])
    assert caught.value.fault.address < memory.stack.address


def test_a_model_larger_than_flash_is_refused() -> None:
    program, tensors, memory, _ = limit_case()
    small = replace(memory, flash=replace(memory.flash, size_bytes=4096))
    with pytest.raises(DoesNotFit, match=r"\.text.*FLASH"):
        trial_of(program, tensors, small)


# Firmwares that go wrong.

HEADER = """#include <stdint.h>
void costsim_init(void);
float costsim_train_step(const float *input, const int32_t *labels);
void costsim_predict(const float *input, float *logits);
"""


def broken(body: str) -> dict[str, str]:
    """A model whose only operation does `body`."""
    return {
        "costsim_model.h": HEADER,
        "costsim_model.c": f"""#include "costsim_model.h"
float costsim_arena[4] __attribute__((section(".costsim_arena"), used));
__attribute__((noinline)) static void kernel(void) {{ {body} }}
__attribute__((noinline)) void costsim_op_0007_broken(void) {{ kernel(); }}
void costsim_init(void) {{ }}
float costsim_train_step(const float *input, const int32_t *labels) {{
    (void)input; (void)labels; costsim_op_0007_broken(); return 1.0f;
}}
void costsim_predict(const float *input, float *logits) {{ (void)input; (void)logits; }}
""",
    }


FLASH_WRITE = "*(volatile uint32_t *)0x08000100u = 1;"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('for (;;) __asm volatile("");', "time limit"),
        ('__asm volatile("udf #0");', "instruction that the core does not have"),
        (FLASH_WRITE, "write to read-only memory"),
        ("(void)*(volatile uint32_t *)0x90000000u;", "read of an address"),
        ("((void (*)(void))0x90000001u)();", "fetch from an address"),
    ],
)
def test_a_firmware_that_goes_wrong_is_stopped_with_its_state(body, kind) -> None:
    firmware = build_firmware(broken(body), board()[1])
    with Emulator(firmware) as emulator:
        emulator.call("costsim_init")
        if kind == "time limit":
            emulator.time_limit_s = 0.5
        with pytest.raises(EmulatedFault, match=kind) as caught:
            emulator.call("costsim_train_step", 0, 0)
        fault = caught.value.fault
        assert fault.operation == 7
        if "fetch" not in kind:
            assert "kernel" in str(fault) or "costsim_op_0007_broken" in str(fault)
        # It is the firmware that is broken, not the emulator.
        emulator.time_limit_s = 60.0
        emulator.call("costsim_init")


def test_c_that_does_not_compile_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r" cannot compile the firmware: .*error") as told:
        build_firmware(broken("nonsense"), board()[1])
    assert str(told.value).startswith(find_compiler().title)
    assert "\n" not in str(told.value)


def test_the_emulators_process_may_die() -> None:
    firmware = build_firmware(broken(""), board()[1])
    with Emulator(firmware) as emulator:
        assert emulator.call("costsim_train_step", 0, 0) == 1.0
        emulator._process.send_signal(signal.SIGSEGV)
        with pytest.raises(EmulatorLost, match="ended with status -11"):
            emulator.call("costsim_train_step", 0, 0)
        with pytest.raises(EmulatorLost):
            emulator.call("costsim_init")
    with pytest.raises(EmulatorLost, match="not running"):
        emulator.read(0x20000000, 4)


def test_an_emulator_that_does_not_answer_is_ended(monkeypatch) -> None:
    firmware = build_firmware(broken(""), board()[1])
    with Emulator(firmware, time_limit_s=PATIENCE_S) as emulator:
        monkeypatch.setattr("costsim.c.emulation.emulator.GRACE_S", 0.3)
        emulator.time_limit_s = 0.1
        process = emulator._process
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(EmulatorLost, match="did not answer"):
            emulator.call("costsim_init")
        assert process.poll() is not None


def test_the_emulator_is_loaded_by_its_own_process_alone() -> None:
    """unicorn is GPL: this process only starts the one that loads it."""
    code = (
        "import sys; import costsim.hardware.boards.unicorn, costsim.c.emulation.trial, "
        "costsim.c.emulation.emulator; print('unicorn' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_emulators_process_loads_no_more_than_it_runs() -> None:
    """One is started for every program that is tried: a second each would count."""
    code = "import sys, costsim.c.emulation.worker; print(*{'pydantic', 'yaml'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# Builds.


def test_a_build_is_found_again_and_the_same_to_the_byte(monkeypatch, tmp_path) -> None:
    sources, memory = broken(""), board()[1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    first = build_firmware(sources, memory)
    content, when = first.elf.read_bytes(), first.elf.stat().st_mtime_ns
    again = build_firmware(sources, memory)
    assert (again.elf, again.elf.stat().st_mtime_ns) == (first.elf, when)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    other = build_firmware(sources, memory)
    assert other.elf != first.elf
    assert other.elf.read_bytes() == content
    assert build_firmware(sources, memory, stack_bytes=512).elf.name != other.elf.name
    with pytest.raises(InputError, match="a multiple of 8"):
        build_firmware(sources, memory, stack_bytes=12)


def test_every_instruction_of_a_firmware_is_read_as_another_tool_reads_it() -> None:
    """Lengths and kinds of a whole firmware against LLVM's disassembler, where it is installed."""
    import re
    import shutil

    tool = shutil.which("llvm-objdump")
    if tool is None:
        pytest.skip("llvm-objdump is not installed")
    graph = chain()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(optimizer="adam"))
    sources = emit(program, arrays(random_tensors(graph, torch.float32)))
    image_path = build_firmware(sources, board()[1]).elf
    image = read_image(image_path)
    text = subprocess.run(
        [tool, "-d", "--no-show-raw-insn", "--mcpu=cortex-m7", str(image_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = {int(m[1], 16): m[2] for m in re.finditer(r"^\s*([0-9a-f]+):\s+(\S+)", text, re.M)}
    kinds = {
        "fp_mac": r"vfn?m[as]|vn?ml[as]",
        "fp_mul": r"vn?mul",
        "fp_div": r"vdiv|vsqrt",
        "fp_load": r"vldr",
        "fp_store": r"vstr",
        "load": r"ldr",
        "store": r"str",
        "load_many": r"ldm|ldrd|pop|vpop|vldm",
        "store_many": r"stm|strd|push|vpush|vstm",
        "int_mac": r"ml[as]|[su]mlal",
        "dsp_mac": r"smla[bt][bt]|smlad",
        "call": r"bl",
    }
    checked = 0
    for function in image.functions:
        if not function.size_bytes or function.name.startswith("Reset"):
            continue
        for start, code in image.instructions(function):
            at = start
            for one in decode(code):
                if at in rows and not re.fullmatch(r"[0-9a-f]{2}|[.<].*", rows[at]):
                    if one.kind in kinds:
                        assert re.match(kinds[one.kind], rows[at]), (hex(at), rows[at], one)
                    elif one.kind not in ("branch", "system"):
                        assert not re.match("|".join(kinds.values()), rows[at]), (rows[at], one)
                    checked += 1
                at += one.size
    assert checked > 1000


@pytest.mark.parametrize("name", ["firmware/watch.c", "firmware/startup.c"])
def test_the_sources_of_the_firmware_are_beside_the_package(name) -> None:
    import costsim.c.emulation

    assert (Path(costsim.c.emulation.__file__).parent / name).is_file()


def test_what_is_observed_is_checked_at_all() -> None:
    """A program that is not the one that ran is found out."""
    graph = chain(batch=1)
    step = TrainingStep(1)
    full = compile_program(graph, UpdatePlan.full(graph), step)
    other = compile_program(graph, late_plan(graph, 1), step)
    trial = trial_of(full, random_tensors(graph, torch.float32))
    with trial:
        observed = trial.observe(*batches(full, 1)[0])
    check_observed(EmulatedStep(full, board()[0], trial.firmware, observed))
    with pytest.raises(AssertionError):
        check_observed(EmulatedStep(other, board()[0], trial.firmware, observed))
