"""The parts of the emulation that need no emulator: code, cycles, frames, maps, liveness."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.c.emulation.build import DEFAULT_STACK_BYTES, PORTS, own_source
from costsim.c.emulation.elf import Image, Symbol
from costsim.c.emulation.frames import MAX_PAYLOAD_BYTES, Frame, Reader, Type
from costsim.c.emulation.latency import IDEAL, MEASURED, block_cycles, work_cycles
from costsim.c.emulation.linker import linker_script
from costsim.c.emulation.liveness import AccessBits, liveness
from costsim.c.emulation.memory_map import MemoryMap, Span, memory_map
from costsim.c.emulation.stack import StackUnknown, stack_bound
from costsim.c.emulation.thumb import FP, decode
from costsim.c.emulation.toolchain import find_compiler
from costsim.c.emulation.trial import Touched
from costsim.device import load_device


def code(*halfwords: int) -> bytes:
    return b"".join(word.to_bytes(2, "little") for word in halfwords)


# Encodings as in the Arm Architecture Reference Manual for Armv7-M, with operands in the name.
NARROW = [
    ("movs r3, #7", (0x2307,), "alu", (), (3,)),
    ("cmp r3, #7", (0x2B07,), "alu", (3,), ()),
    ("adds r1, r2, r3", (0x18D1,), "alu", (2, 3), (1,)),
    ("muls r1, r2, r1", (0x4351,), "int_mul", (1, 2), (1,)),
    ("mov r8, r1", (0x4688,), "alu", (1,), (8,)),
    ("bx lr", (0x4770,), "branch", (14,), ()),
    ("blx r3", (0x4798,), "call", (3,), ()),
    ("ldr r2, [pc, #8]", (0x4A02,), "load", (), (2,)),
    ("ldr r1, [r2, #4]", (0x6851,), "load", (2,), (1,)),
    ("str r1, [r2, #4]", (0x6051,), "store", (1, 2), ()),
    ("ldrb r1, [r2, r3]", (0x5CD1,), "load", (2, 3), (1,)),
    ("strh r1, [r2, r3]", (0x52D1,), "store", (1, 2, 3), ()),
    ("ldr r1, [sp, #4]", (0x9901,), "load", (13,), (1,)),
    ("beq .", (0xD0FE,), "branch", (), ()),
    ("b .", (0xE7FE,), "branch", (), ()),
    ("cbz r2, .+4", (0xB102,), "branch", (2,), ()),
    ("nop", (0xBF00,), "system", (), ()),
    ("bkpt 1", (0xBE01,), "system", (), ()),
    ("rsbs r5, r0, #0", (0x4245,), "alu", (0,), (5,)),
    ("mvns r4, r3", (0x43DC,), "alu", (3,), (4,)),
    ("push {r7, lr}", (0xB580,), "store_many", (7, 13, 14), (13,)),
    ("pop {r7, pc}", (0xBD80,), "branch", (13,), (7, 13)),
    ("ldm r6, {r0, r1, r2, r6}", (0xCE47,), "load_many", (6,), (0, 1, 2, 6)),
]
S0, S1, S2 = FP, FP + 1, FP + 2
WIDE = [
    ("vfma.f32 s0, s1, s2", (0xEEA0, 0x0A81), "fp_mac", (S1, S2, S0), (S0,)),
    ("vfms.f32 s0, s1, s2", (0xEEA0, 0x0AC1), "fp_mac", (S1, S2, S0), (S0,)),
    ("vfnma.f32 s0, s1, s2", (0xEE90, 0x0AC1), "fp_mac", (S1, S2, S0), (S0,)),
    ("vmla.f32 s0, s1, s2", (0xEE00, 0x0A81), "fp_mac", (S1, S2, S0), (S0,)),
    ("vmul.f32 s0, s1, s2", (0xEE20, 0x0A81), "fp_mul", (S1, S2), (S0,)),
    ("vadd.f32 s0, s1, s2", (0xEE30, 0x0A81), "fp_add", (S1, S2), (S0,)),
    ("vdiv.f32 s0, s1, s2", (0xEE80, 0x0A81), "fp_div", (S1, S2), (S0,)),
    ("vsqrt.f32 s0, s1", (0xEEB1, 0x0AE0), "fp_div", (S1,), (S0,)),
    ("vcmp.f32 s0, s1", (0xEEB4, 0x0A60), "fp_add", (S0, S1), ()),
    ("vmov.f32 s0, #1.0", (0xEEB7, 0x0A00), "fp_move", (), (S0,)),
    ("vldr s0, [r1]", (0xED91, 0x0A00), "fp_load", (1,), (S0,)),
    ("vstr s0, [r1]", (0xED81, 0x0A00), "fp_store", (S0, 1), ()),
    ("vmov r1, s0", (0xEE10, 0x1A10), "fp_move", (S0,), (1,)),
    ("mla r0, r1, r2, r3", (0xFB01, 0x3002), "int_mac", (1, 2, 3), (0,)),
    ("mls r0, r1, r2, r3", (0xFB01, 0x3012), "int_mac", (1, 2, 3), (0,)),
    ("mul r0, r1, r2", (0xFB01, 0xF002), "int_mul", (1, 2), (0,)),
    ("smlabb r0, r1, r2, r3", (0xFB11, 0x3002), "dsp_mac", (1, 2, 3), (0,)),
    ("smulbb r0, r1, r2", (0xFB11, 0xF002), "int_mul", (1, 2), (0,)),
    ("smlad r0, r1, r2, r3", (0xFB21, 0x3002), "dsp_mac", (1, 2, 3), (0,)),
    ("smull r0, r1, r2, r3", (0xFB82, 0x0103), "int_mul", (2, 3), (0, 1)),
    ("sdiv r0, r1, r2", (0xFB91, 0xF0F2), "int_div", (1, 2), (0,)),
    ("add.w r0, r1, r2", (0xEB01, 0x0002), "alu", (1, 2), (0,)),
    ("movw r0, #1", (0xF240, 0x0001), "alu", (), (0,)),
    ("ldr.w r0, [r1, #4]", (0xF8D1, 0x0004), "load", (1,), (0,)),
    ("ldr.w r0, [r1, r2]", (0xF851, 0x0002), "load", (1, 2), (0,)),
    ("ldr r0, [r1], #4", (0xF851, 0x0B04), "load", (1,), (0, 1)),
    ("ldrd r0, r1, [r2]", (0xE9D2, 0x0100), "load_many", (2,), (0, 1)),
    ("bl .", (0xF7FF, 0xFFFE), "call", (), ()),
    ("beq.w .", (0xF43F, 0xAFFE), "branch", (), ()),
    ("dsb", (0xF3BF, 0x8F4F), "system", (), ()),
    ("movt r2, #0x7fff", (0xF6C7, 0x72FF), "alu", (2,), (2,)),
    ("bfc r2, #23, #9", (0xF36F, 0x52DF), "alu", (2,), (2,)),
    ("ssat r4, #8, r4", (0xF304, 0x0407), "alu", (4,), (4,)),
    ("pkhbt r2, r3, r2, lsl #16", (0xEAC3, 0x4202), "alu", (2, 3), (2,)),
    ("sxtab r0, r1, r2", (0xFA41, 0xF082), "alu", (1, 2), (0,)),
    ("vmrs apsr_nzcv, fpscr", (0xEEF1, 0xFA10), "fp_move", (), ()),
    ("tbb [pc, r2]", (0xE8DF, 0xF002), "branch", (2,), ()),
]


@pytest.mark.parametrize("case", [*NARROW, *WIDE], ids=lambda case: case[0])
def test_an_instruction_is_read_as_the_manual_says(case) -> None:
    text, words, kind, reads, writes = case
    (found,) = decode(code(*words))
    assert found.size == 2 * len(words)
    assert (found.kind, found.reads, found.writes) == (kind, tuple(sorted(reads)), writes)
    expected = {"fp_mac": 1, "int_mac": 1, "dsp_mac": 1}.get(kind, 0) * (
        2 if text.startswith("smlad") else 1
    )
    assert found.macs == expected


def test_words_moved_are_those_of_the_list_and_of_both_halves() -> None:
    strd, stm, pop, vldmia = (0xE9CD, 0x3316), (0xC178,), (0xBD80,), (0xECB0, 0x0A04)
    found = decode(code(*strd, *stm, *pop, *vldmia))  # strd r3, r3: the same register twice
    assert [one.transfers for one in found] == [2, 4, 2, 4]


def test_what_is_no_instruction_does_nothing_for_its_length() -> None:
    assert [(one.size, one.kind, one.reads) for one in decode(code(0xF000, 0xE001, 0x2307))] == [
        (4, "alu", ()),
        (2, "alu", ()),
    ]


def test_it_blocks_make_what_follows_conditional() -> None:
    ittt, vfma, add = 0xBF0E, (0xEEA0, 0x0A81), 0x18D1  # itee: three instructions
    found = decode(code(ittt, *vfma, add, *vfma, *vfma))
    assert [one.conditional for one in found] == [False, True, True, True, False]
    with pytest.raises(ValueError, match="ends inside"):
        decode(code(0xEEA0))


# Cycles.

ADD = (0x18D1,)  # adds r1, r2, r3
CHAIN = (0x3101,)  # adds r1, #1
VFMA = (0xEEA0, 0x0A81)  # s0 += s1 * s2
LOAD_S1 = (0xEDD1, 0x0A00)  # vldr s1, [r1]


def cycles(*instructions, rules=IDEAL) -> float:
    return block_cycles(decode(code(*(word for one in instructions for word in one))), rules)


def test_two_independent_instructions_issue_in_one_cycle_and_a_chain_one_by_one() -> None:
    independent = [(0x2300 | 0x100 * register,) for register in range(4)]
    assert cycles(*independent) == 2
    assert cycles(*[CHAIN] * 10) == 10


def test_a_multiply_accumulate_waits_for_the_one_before_it() -> None:
    # LLVM: the result after 6 cycles, the accumulator needed 3 later.
    assert cycles(*[VFMA] * 8) == 8 * (6 - 3)
    others = [(0xEEA0, 0x0A81 | 0x1000 * n) for n in range(4, 8)]
    assert len({decode(code(*one))[0].writes for one in others}) == 4
    assert cycles(*others) == len(others)


def test_the_measured_rules_are_never_faster() -> None:
    assert cycles(LOAD_S1, VFMA, rules=MEASURED) >= cycles(LOAD_S1, VFMA)


@given(st.lists(st.sampled_from([ADD, CHAIN, VFMA, LOAD_S1]), min_size=1, max_size=12))
def test_cycles_lie_between_dual_issue_and_the_sum_of_latencies(instructions) -> None:
    found = cycles(*instructions)
    assert len(instructions) / 2 <= found <= 7 * len(instructions)
    assert found <= cycles(*instructions, rules=MEASURED) + 1


def test_emulated_seconds_are_an_interval_around_the_model() -> None:
    target = load_device("stm32f746").target()
    block = decode(code(*LOAD_S1, *VFMA))
    work = work_cycles({block: 1000})  # type: ignore[arg-type]
    seconds = work.seconds(target)
    assert seconds.low <= seconds.value <= seconds.high
    assert seconds.value == work.measured / target.clock.value
    assert work.words == 1000
    bus_s = 4 * work.words / target.bandwidth.interval.low
    assert seconds.high == pytest.approx(seconds.value + bus_s)


# The depth of the stack.


def image_of(*functions: tuple[str, bytes]) -> Image:
    at, symbols, content = 0x08000000, {}, b""
    for name, body in functions:
        symbols[name] = Symbol(name, at + len(content), len(body), True)
        content += body
    return Image(((at, content),), {}, symbols)


PUSH_2, SUB_16, VPUSH_4 = (0xB510,), (0xB084,), (0xED2D, 0x8A04)


def call(from_offset: int, to_offset: int) -> tuple[int, int]:
    distance = to_offset - from_offset - 4
    assert -(1 << 11) < distance < 1 << 11
    sign = 0x0400 if distance < 0 else 0
    high = 0xF000 | sign | (0x3FF if distance < 0 else 0)
    return high, 0xF800 | distance >> 1 & 0x7FF


def test_the_stack_is_that_of_the_deepest_path() -> None:
    leaf = code(*PUSH_2, *SUB_16, *VPUSH_4)
    middle = code(*PUSH_2, *call(len(leaf) + 2, 0))
    image = image_of(("leaf", leaf), ("middle", middle))
    own = 2 * 4 + 16 + 4 * 4
    assert stack_bound(image, "leaf") == own
    assert stack_bound(image, "middle") == 2 * 4 + own


def test_recursion_is_refused() -> None:
    first = code(*PUSH_2, *call(2, 6))
    second = code(*PUSH_2, *call(8, 0))
    with pytest.raises(StackUnknown, match="calls itself"):
        stack_bound(image_of(("first", first), ("second", second)), "first")


# Frames.

frames = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=MAX_PAYLOAD_BYTES),
)


def read_all(content: bytes, pieces: int = 1) -> list[Frame]:
    reader = Reader()
    found: list[Frame] = []
    size = max(1, len(content) // pieces)
    for start in range(0, len(content), size):
        found += reader.feed(content[start : start + size])
    while True:
        before = reader.skipped_bytes
        reader.restart()
        found += reader.feed(b"")
        if reader.skipped_bytes == before:
            return found


@given(frames, st.integers(1, 50))
def test_a_frame_comes_back_however_it_is_cut(frame, pieces) -> None:
    assert read_all(frame.to_bytes(), pieces) == [frame]
    content = frame.to_bytes()
    assert int.from_bytes(content[-4:], "little") == zlib.crc32(content[2:6] + frame.payload)


@given(st.lists(frames, max_size=3), st.lists(st.binary(max_size=40), min_size=4, max_size=4))
def test_frames_are_found_among_garbage(sent, garbage) -> None:
    content = garbage[0]
    for frame, more in zip(sent, garbage[1:], strict=False):
        content += frame.to_bytes() + more
    found = read_all(content)
    assert [frame for frame in found if frame in sent] == sent


@given(frames, st.data())
def test_a_damaged_frame_is_never_taken_for_another(frame, data) -> None:
    content = bytearray(frame.to_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    assert frame not in read_all(bytes(content))
    lost = frame.to_bytes()[:at] + frame.to_bytes()[at + 1 :]
    assert read_all(lost) == []


def test_the_firmware_numbers_its_messages_as_we_do() -> None:
    text = own_source("serve.c").decode()
    listed = text.partition("enum {")[2].partition("/* asked */")[0]
    names = [part.strip() for part in listed.replace("= 1", "").split(",") if part.strip()]
    assert names == [kind.name for kind in list(Type)[: len(names)]]
    assert f"MAX_PAYLOAD = {MAX_PAYLOAD_BYTES}" in text


# Memory maps.


def test_the_memory_map_is_the_device_files() -> None:
    small = memory_map(load_device("stm32f746"))
    assert small.shared
    assert (small.flash, small.arena) == (Span(0x08000000, 1 << 20), Span(0x20000000, 320 << 10))
    large = memory_map(load_device("stm32h743"))
    assert not large.shared
    assert (large.arena, large.stack) == (Span(0x24000000, 512 << 10), Span(0x20000000, 128 << 10))
    assert {span.address for span in large.others.values()} == {0x30000000, 0x38000000, 0}
    assert large.limited(4096).arena.size_bytes == 4096
    assert small.limited(4096).stack == small.limited(4096).arena
    with pytest.raises(InputError, match="in several places"):
        large.moved(0, 0x20000000)


def test_a_device_without_addresses_cannot_be_emulated() -> None:
    with pytest.raises(InputError, match=r"device jetson-nano: memory: .* with an address"):
        memory_map(load_device("jetson-nano"))


def test_the_linker_script_holds_every_size() -> None:
    memory = memory_map(load_device("stm32h743"))
    script = linker_script(memory, DEFAULT_STACK_BYTES)
    for span in (memory.flash, memory.stack, memory.arena):
        assert f"ORIGIN = {span.address:#x}, LENGTH = {span.size_bytes}" in script
    assert f". = . + {DEFAULT_STACK_BYTES};" in script
    shared = MemoryMap("one", memory.flash, memory.arena, memory.arena)
    assert "ARENA (rw)" not in linker_script(shared, 64)


def test_every_file_of_a_firmware_ships() -> None:
    for files in PORTS.values():
        for name in files:
            assert own_source(name)


def test_a_compiler_that_is_missing_is_named_with_its_packages(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r'pip install "costsim\[emulator\]".*gcc-arm-none-eabi'):
        find_compiler()
    with pytest.raises(InputError, match="allowed are zig, gcc"):
        find_compiler("tcc")  # type: ignore[arg-type]


# Liveness.

BYTES, OPERATIONS = 6, 5
spans = st.dictionaries(
    st.integers(-1, OPERATIONS - 1),
    st.lists(
        st.tuples(st.integers(0, BYTES - 1), st.integers(1, 3)).map(
            lambda pair: (pair[0], min(BYTES, sum(pair)))
        ),
        max_size=2,
    ).map(tuple),
    max_size=OPERATIONS,
)


@settings(max_examples=60)
@given(spans, spans, st.integers(0, OPERATIONS - 1))
def test_liveness_is_that_of_its_definition(written, read, loss) -> None:
    bits = AccessBits.of(Touched(written, read), OPERATIONS, BYTES)
    order = range(-1, OPERATIONS)
    found = liveness(bits, order, kept_at=loss)
    steps = len(order)

    def needed_after(byte: int, row: int) -> bool:
        """Walk on, into the next step and the one after: read before it is written?"""
        for ahead in range(row + 1, row + 1 + 2 * steps):
            if bits.read[ahead % steps, byte]:
                return True
            if bits.written[ahead % steps, byte]:
                return False
        return False

    for position in range(OPERATIONS):
        row = position + 1
        alive = [
            bits.touched[row, byte] or (needed_after(byte, row) and not bits.written[row, byte])
            for byte in range(BYTES)
        ]
        assert found.live_bytes[position] == sum(alive)
        assert found.touched_bytes[position] == bits.touched[row].sum()
    kept = [
        needed_after(byte, loss + 1) and not bits.written[loss + 1, byte] for byte in range(BYTES)
    ]
    assert found.after_loss.tolist() == kept
    assert found.peak_bytes == found.live_bytes.max()
    assert np.all(found.live_bytes >= found.touched_bytes)
    assert replace(found, after_loss=np.zeros(BYTES, bool)).peak_bytes == found.peak_bytes
