"""A firmware on a line: an emulated board behind a pseudo-terminal, a bad line, QEMU."""

import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from channel_plans import every_other_channel
from emulating import (
    LEARNING_RATE,
    NARROW,
    NARROW_RATE,
    arrays,
    batches,
    board,
    needs_emulator,
    scales_of,
    trial_of,
)
from fork_server import DEVNULL, PIPE, start
from graphs import chain, inverted_bottleneck
from running import random_tensors
from training import MODEL, write_network

from costsim.base.errors import InputError
from costsim.c.emission import EmissionOptions, emit, integers, read_weights
from costsim.c.emission.reference import Reference
from costsim.c.emulation.build import build_firmware, source_digest
from costsim.c.emulation.elf import read_image
from costsim.c.emulation.frames import MAX_PAYLOAD_BYTES, Frame, Region, Type
from costsim.c.emulation.lines import LineLost, SerialLine, SocketLine
from costsim.c.emulation.link import BoardFault, Link, LinkError, LinkTimeout, encoding
from costsim.c.emulation.worker import map_to_json
from costsim.cli import main
from costsim.hardware.boards.line import LineSession, compared_losses
from costsim.hardware.boards.qemu import QemuSession
from costsim.hardware.ssh.shipment import plan_job
from costsim.hardware.targets.base import TargetError, TargetOptions, Watch, parse_target
from costsim.hardware.targets.fan_out import measure_on
from costsim.hardware.targets.job import RunOptions
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, plan_arena
from costsim.ir.step import TrainingStep
from costsim.solving.planfile import read_plan

STACK_BYTES = 4096


@pytest.fixture(autouse=True)
def emulator() -> None:
    needs_emulator()
    pytest.importorskip("serial", reason="pyserial is not installed (costsim[serial])")


@pytest.fixture(scope="module")
def small():
    """A program of two passes a step, its weights, and its firmware for a line."""
    needs_emulator()
    graph = chain(batch=1, channels=(3, 4))
    step = TrainingStep(2, micro_batch=1, optimizer="momentum")
    program = compile_program(graph, UpdatePlan.full(graph), step)
    tensors = random_tensors(graph, torch.float32)
    sources = emit(program, arrays(tensors), options=EmissionOptions(learning_rate=LEARNING_RATE))
    firmware = build_firmware(sources, board()[1], stack_bytes=STACK_BYTES, port="uart")
    return program, tensors, sources, firmware


@contextmanager
def running_board(folder: Path, firmware, memory=None):
    """A process that is an emulated board; gives the name of its terminal and the process."""
    place = folder / "map.json"
    place.write_text(json.dumps(map_to_json(memory or firmware.memory)))
    process = start(
        ["-m", "costsim.c.emulation.board", firmware.elf, place], stdout=PIPE, stderr=DEVNULL
    )
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_steps_over_a_line_are_those_of_the_emulator(small, tmp_path) -> None:
    program, tensors, sources, firmware = small
    feed = batches(program, 3)
    with trial_of(program, tensors) as trial:
        expected = [trial.step(*batch) for batch in feed]
        arena = trial.arena()
        outputs = trial.predict(feed[0][0][:1])
    with running_board(tmp_path, firmware) as (name, _):
        line = SerialLine(name, 115_200)
        link = Link(line, timeout_s=5.0)
        told = link.connect(30.0)
        assert told.digest == source_digest(sources)
        assert (told.samples, told.passes) == (1, 2)
        assert told.arena_bytes == plan_arena(program).size_bytes
        losses = [link.step(*batch) for batch in feed]
        assert losses == pytest.approx(expected, rel=1e-7)
        status = link.status()
        assert status.steps == len(feed)
        assert status.arena_bytes == plan_arena(program).size_bytes
        assert 0 < status.stack_bytes <= STACK_BYTES
        assert np.array_equal(link.predict(feed[0][0][:1]), outputs)
        assert link.working_s > 0
        # Updated weights and optimizer state are the same to the bit.
        span = persistent_span(program)
        found = link.read(Region.ARENA, span.start, span.stop - span.start)
        assert found == arena[span.start : span.stop]
        for region, offset, size in (
            (Region.ARENA, told.arena_bytes, 4),
            (Region.INPUT, 1 << 31, 1),
        ):
            with pytest.raises(LinkError, match="READ was refused: the place is out of range"):
                link.read(region, offset, size)
        line.close()


def persistent_span(program) -> range:
    """The bytes of the updated weights of the first layer."""
    index, offset = next(
        (i, offset)
        for i, offset in plan_arena(program).offsets_bytes.items()
        if program.buffers[i].name.startswith("weights:")
    )
    return range(offset, offset + program.buffers[index].bytes)


class BadLine:
    """A line that loses bytes, changes them, and makes some up; more than a real one does."""

    name = "a bad line"

    def __init__(self, inner: SerialLine, each: float) -> None:
        self.inner, self.each, self.random = inner, each, random.Random(1)
        self.harmed = 0

    def _harm(self, content: bytes) -> bytes:
        found = bytearray()
        for byte in content:
            if self.random.random() < self.each:
                self.harmed += 1
                kind = self.random.randrange(3)
                if kind == 0:
                    continue
                if kind == 1:
                    byte ^= 1 << self.random.randrange(8)
                else:
                    found += self.random.randbytes(3)
            found.append(byte)
        return bytes(found)

    def read(self, timeout_s: float) -> bytes:
        return self._harm(self.inner.read(timeout_s))

    def write(self, content: bytes) -> None:
        self.inner.write(self._harm(content))

    def close(self) -> None:
        self.inner.close()


@pytest.mark.slow
def test_garbage_and_lost_bytes_change_nothing(small, tmp_path) -> None:
    program, tensors, _, firmware = small
    feed = batches(program, 4)
    with trial_of(program, tensors) as trial:
        expected = [trial.step(*batch) for batch in feed]
    with running_board(tmp_path, firmware) as (name, _):
        line = BadLine(SerialLine(name, 115_200), each=1 / 300)
        link = Link(line, timeout_s=0.2, step_timeout_s=0.4, attempts=25)
        link.connect(30.0)
        losses = [link.step(*batch) for batch in feed]
        status = link.status()
        line.close()
    assert losses == pytest.approx(expected, rel=1e-7)
    assert line.harmed > 3
    assert link.traffic.asked_again > 0
    # However often it was asked, each step was done once.
    assert status.steps == len(feed)


def test_a_firmware_that_hangs_is_given_up_with_its_state(small, tmp_path) -> None:
    program, _, _, firmware = small
    with running_board(tmp_path, firmware) as (name, process):
        line = SerialLine(name, 115_200)
        link = Link(line, timeout_s=5.0, step_timeout_s=0.05, attempts=2)
        link.connect(30.0)
        os.kill(process.pid, signal.SIGSTOP)
        link.timeout_s = 0.05
        with pytest.raises(LinkError, match=r"no answer to BEGIN after 2 attempts.*1 of them"):
            link.step(*batches(program, 1)[0])
        line.close()


def test_all_of_it_takes_no_longer_than_its_limit(small, tmp_path) -> None:
    """A question is not asked for hours, however patient each wait is; and a stop is noticed."""
    program, _, _, firmware = small
    with running_board(tmp_path, firmware) as (name, process):
        line = SerialLine(name, 115_200)
        link = Link(line, timeout_s=5.0, step_timeout_s=500.0, attempts=9)
        link.connect(30.0)
        os.kill(process.pid, signal.SIGSTOP)
        link.limit_s = time.monotonic() - link._begun + 0.5
        with pytest.raises(LinkTimeout, match=r"BEGIN is not answered and the .* are over \("):
            link.step(*batches(program, 1)[0])

        class Stopped(Exception):
            pass

        def stop() -> None:
            raise Stopped

        link.limit_s, link.check = 1000.0, stop
        with pytest.raises(Stopped):
            link.init()
        line.close()


def test_losses_that_are_not_those_expected_are_called_wrong() -> None:
    assert "bit by bit" in compared_losses([1.5], [1.5], exact=True)
    nearly = float(np.nextafter(np.float32(1.5), np.float32(2)))
    assert compared_losses([1.5, nearly], [1.5, 1.5], exact=True).startswith("WRONG: of the losses")
    assert "PyTorch's" in compared_losses([nearly], [1.5], exact=False)
    assert compared_losses([1.6], [1.5], exact=False).startswith("WRONG")
    assert compared_losses([float("nan")], [1.5], exact=False).startswith("WRONG")


def test_a_line_with_nobody_on_it_is_reported(tmp_path) -> None:
    ours, theirs = os.openpty()
    line = SerialLine(os.ttyname(theirs), 115_200)
    with pytest.raises(LinkError, match=r"no firmware answered within 0.2 s.*is it flashed"):
        Link(line, timeout_s=0.1).connect(0.2)
    line.close()
    os.close(ours)
    os.close(theirs)
    with pytest.raises(InputError, match="cannot be opened"):
        SerialLine(str(tmp_path / "tty"), 115_200)


def test_a_fault_is_reported_with_its_place(small, tmp_path) -> None:
    """A board with less memory than the firmware was linked for: it ends inside the arena."""
    _, _, _, firmware = small
    image = read_image(firmware.elf)
    address, _ = image.arena
    memory = firmware.memory.limited(address - firmware.memory.arena.address + 8)
    with running_board(tmp_path, firmware, memory) as (name, _):
        line = SerialLine(name, 115_200)
        link = Link(line, timeout_s=5.0, locate=lambda pc: f" in {image.function_at(pc).name}")
        with pytest.raises(BoardFault, match=r"faulted at 0x0800\w{4} in main") as caught:
            link.connect(30.0)
        assert image.function_at(caught.value.pc).name == "main"
        line.close()


class Scripted(threading.Thread):
    """The other end of a socket: answers each frame with what the script says next."""

    def __init__(self, *answers: bytes) -> None:
        super().__init__(daemon=True)
        self.answers = answers
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            for answer in self.answers:
                connection.recv(4096)
                connection.sendall(answer)
            connection.recv(4096)

    def line(self) -> SocketLine:
        found = SocketLine.accept(self.listener, "a script", 5.0)
        self.listener.close()
        return found


def test_a_firmware_that_resets_is_noticed_and_one_that_goes_away_too() -> None:
    shape = np.array([1, 1, 1, 3, 2, 64], dtype="<u4").tobytes() + bytes(16)
    hello = Frame(Type.HELLO | Type.REPLY, 1, shape).to_bytes()
    ready = Frame(Type.READY, 0, shape).to_bytes()
    line = Scripted(hello, ready).line()
    link = Link(line)
    link.connect()
    with pytest.raises(LinkError, match="the firmware was reset during INIT"):
        link.init()
    with pytest.raises(LineLost, match="closed by the other end"):
        link.init()
    line.close()


def test_answers_that_are_too_short_are_refused() -> None:
    shape = np.array([1, 1, 1, 3, 2, 64], dtype="<u4").tobytes() + bytes(16)
    hello = Frame(Type.HELLO | Type.REPLY, 1, shape).to_bytes()
    short = (Frame(Type.STATUS | Type.REPLY, 2, b"1234").to_bytes(),
             Frame(Type.READ | Type.REPLY, 3).to_bytes())  # fmt: skip
    line = Scripted(hello, *short).line()
    link = Link(line)
    link.connect()
    with pytest.raises(LinkError, match="the answer to STATUS has 4 bytes; 12 are needed"):
        link.status()
    with pytest.raises(LinkError, match="the answer to READ has 0 bytes; 5 are needed"):
        link.read(Region.ARENA, 0, 5)
    line.close()


def test_a_line_that_takes_nothing_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr("costsim.c.emulation.lines.WRITE_S", 0.2)
    ours, theirs = os.openpty()
    line = SerialLine(os.ttyname(theirs), 115_200)
    with pytest.raises(LineLost, match="the line broke: Write timeout"):
        line.write(bytes(1 << 20))
    line.close()
    os.close(ours)
    os.close(theirs)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        full = SocketLine.accept(listener, "an emulator", 5.0)
        with other, pytest.raises(LineLost, match="an emulator: the line broke: timed out"):
            full.write(bytes(1 << 26))
        full.close()


def test_a_firmware_of_another_version_is_refused() -> None:
    other = np.array([2, 1, 1, 3, 2, 64], dtype="<u4").tobytes() + bytes(16)
    line = Scripted(Frame(Type.HELLO | Type.REPLY, 1, other).to_bytes()).line()
    with pytest.raises(LinkError, match="speaks version 2 of the protocol; allowed is 1"):
        Link(line).connect()
    line.close()


# Targets.


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A plan for a small network, as a job."""
    needs_emulator()
    folder = tmp_path_factory.mktemp("job")
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        write_network(folder)
        path = folder / "plan.json"
        arguments = ["--device", "stm32f746", "--bits", "32", "--ways", "3", "--shots", "2"]
        given = ["plan", "--model", MODEL, "--macs", "60%", *arguments, "--out", str(path)]
        assert main(given) == 0
        return plan_job(read_plan(path), folder, options=RunOptions(steps=4))
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))


def test_a_board_on_a_serial_line_is_a_target(job, tmp_path) -> None:
    tty, folder = tmp_path / "tty", tmp_path / "firmware"
    warnings: list[str] = []
    target = parse_target(f"serial:{tty}?firmware={folder}", TargetOptions(time_limit_s=30.0))
    assert target.how == "measured"
    assert parse_target(target.name, TargetOptions(time_limit_s=30.0)) == target
    with target.session(Watch(warn=warnings.append)) as session:
        assert isinstance(session, LineSession)
        session.ship(job)
        assert {"serve.c", "uart.h", "costsim.ld", "costsim_model.c"} <= {
            file.name for file in folder.iterdir()
        }
        assert "uart_cmsdk.c" in warnings[0]
        with running_board(tmp_path, session.firmware) as (name, _):
            tty.symlink_to(name)
            session.run()
            outcome = session.collect()
    assert outcome.how == "measured"
    assert len(outcome.measurement.step_s) == 4
    assert outcome.counts["arena_bytes"] == plan_arena(session.program).size_bytes
    assert outcome.counts["steps"] == 4
    (told,) = [note for note in outcome.notes if "the losses of 4 steps" in note]
    assert "are PyTorch's" in told


def test_a_board_unplugged_in_the_middle_keeps_the_steps_before(job, tmp_path) -> None:
    """Its end of the pseudo-terminal goes as a USB line does."""
    tty = tmp_path / "tty"
    target = parse_target(f"serial:{tty}", TargetOptions(time_limit_s=30.0))
    long = replace(job, options=replace(job.options, steps=1000))
    with target.session(Watch()) as session:
        assert isinstance(session, LineSession)
        session.ship(long)
        firmware = session.firmware
    found: list[Any] = []
    with running_board(tmp_path, firmware) as (name, process):
        tty.symlink_to(name)

        def unplug(what, done, _total) -> None:
            if what.endswith("stepping") and done == 3:
                process.kill()
                process.wait()

        measure_on([target], long, repeats=2, watch=Watch(report=unplug), found=found.append)
    run, failure = found
    assert run.outcome.partial
    assert run.outcome.how == "measured"
    assert len(run.outcome.measurement.step_s) == 3
    assert all(seconds > 0 for seconds in run.outcome.measurement.step_s)
    assert any("the losses of 3 steps are PyTorch's" in note for note in run.outcome.notes)
    assert run.outcome.notes[-1].startswith(f"cut short after 3 of 1000 steps: {tty}: the line")
    assert failure.reason == "unreachable"
    assert failure.message.endswith("; 3 of the 1000 steps it was at are kept")


def test_another_plans_firmware_is_noticed(job, small, tmp_path) -> None:
    tty = tmp_path / "tty"
    with running_board(tmp_path, small[3]) as (name, _):
        tty.symlink_to(name)
        with (
            parse_target(f"serial:{tty}").session(Watch()) as session,
            pytest.raises(TargetError, match="another firmware answered"),
        ):
            session.perform(job)


def test_qemu_steps_as_the_other_emulator_does(job) -> None:
    needs_qemu()
    target = parse_target("qemu:mps2-an500", TargetOptions(time_limit_s=60.0))
    with target.session(Watch()) as session:
        assert isinstance(session, QemuSession)
        outcome = session.perform(job)
        process = session.process
    assert process.poll() is not None
    assert (outcome.how, outcome.measurement.step_s) == ("emulated", ())
    assert any("the losses of 1 step are PyTorch's" in note for note in outcome.notes)
    assert outcome.counts["arena_bytes"] == plan_arena(session.program).size_bytes


@pytest.fixture(scope="module")
def narrow():
    """A program in 8 bits, its sources, the bytes of an input, and the numpy reference."""
    needs_emulator()
    graph = inverted_bottleneck()
    step = TrainingStep(4, micro_batch=2, optimizer="momentum", bits=NARROW)
    program = compile_program(graph, every_other_channel(graph), step)
    tensors = random_tensors(graph, torch.float32)
    images = batches(program, 1)[0][0][:2]
    scales = scales_of(graph, tensors, torch.from_numpy(images))
    options = EmissionOptions(learning_rate=NARROW_RATE)
    sources = emit(program, arrays(tensors), options=options, quantization=scales)
    stored = integers(graph, arrays(tensors), scales)
    reference = Reference(program, stored, scales, options, fused=True)
    feed = batches(program, 3)
    losses = [reference.step(*batch) for batch in feed]
    return program, sources, encoding(scales.values[graph.input]), feed, losses, stored


def check_narrow_line(link: Link, narrow) -> None:
    """Integers go over the line, not floats, and what comes back is the reference's."""
    program, sources, _, feed, losses, stored = narrow
    assert link.connect(30.0).digest == source_digest(sources)
    found = []
    for batch in feed:
        before = link.traffic.asked
        found.append(link.step(*batch))
        sent = program.step.passes * -(-feed[0][0][:2].size // (MAX_PAYLOAD_BYTES - 5))
        others = 2 + 2 * program.step.passes  # begin and end; labels and work of each pass
        assert link.traffic.asked - before == sent + others
    assert [np.float32(loss) for loss in found] == [np.float32(loss) for loss in losses]
    arena = link.read(Region.ARENA, 0, plan_arena(program).size_bytes)
    for name, value in read_weights(program, stored, arena).items():
        assert np.array_equal(value, stored[name]), name


def test_steps_in_8_bits_over_a_line_are_the_references(narrow, tmp_path) -> None:
    firmware = build_firmware(narrow[1], board()[1], stack_bytes=STACK_BYTES, port="uart")
    with running_board(tmp_path, firmware) as (name, _):
        line = SerialLine(name, 115_200)
        link = Link(line, timeout_s=5.0, encode=narrow[2])
        check_narrow_line(link, narrow)
        image = narrow[3][0][0][:2]
        with pytest.raises(LinkError, match="WRITE was refused: the place is out of range"):
            link.write(Region.INPUT, bytes(1), image.size)
        line.close()


def needs_qemu() -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed (Debian: qemu-system-arm)")


def test_qemu_computes_the_same_bits_in_8_bits(narrow) -> None:
    needs_qemu()
    session = parse_target("qemu:mps2-an500").session(Watch())
    assert isinstance(session, QemuSession)
    session.start()
    memory = session.board_memory(board()[1])
    firmware = build_firmware(narrow[1], memory, stack_bytes=STACK_BYTES, port="uart")
    try:
        line = session.open_line(firmware)
        check_narrow_line(Link(line, timeout_s=10.0, encode=narrow[2]), narrow)
        line.close()
    finally:
        session.clean_up()


def test_qemu_gives_the_same_bits(small) -> None:
    """Losses and weights of three steps, by two emulators that share no translation."""
    needs_qemu()
    program, tensors, sources, firmware = small
    feed = batches(program, 3)
    with trial_of(program, tensors) as trial:
        expected, arena = [trial.step(*batch) for batch in feed], trial.arena()
    target = parse_target("qemu:mps2-an500")
    session = target.session(Watch())
    assert isinstance(session, QemuSession)
    session.start()
    memory = session.board_memory(firmware.memory)
    moved = build_firmware(sources, memory, stack_bytes=STACK_BYTES, port="uart")
    try:
        line = session.open_line(moved)
        link = Link(line, timeout_s=10.0)
        link.connect(30.0)
        assert [link.step(*batch) for batch in feed] == pytest.approx(expected, rel=1e-7)
        span = persistent_span(program)
        found = link.read(Region.ARENA, span.start, span.stop - span.start)
        assert found == arena[span.start : span.stop]
        line.close()
    finally:
        session.clean_up()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("serial:", "a line is needed"),
        ("serial:/dev/x?baud=fast", "baud 'fast'"),
        ("serial:/dev/x?speed=1", "unknown parameter 'speed'"),
        ("qemu:raspi", "allowed is qemu:mps2-an500"),
        ("qemu:mps2-an500?x=1", "unknown parameter 'x'"),
        ("unicorn:cortex-m4", "allowed is unicorn:cortex-m7"),
        ("unicorn:cortex-m7?compiler=tcc", "allowed are zig, gcc"),
        ("unicorn:cortex-m7?ram=much", "ram|size"),
    ],
)
def test_names_that_are_none_are_refused(name, told) -> None:
    with pytest.raises(InputError, match=told):
        parse_target(name)
