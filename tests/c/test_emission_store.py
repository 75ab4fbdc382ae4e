"""Saving and loading what was learnt: whole or as before, of this model alone, read on the host."""

import ctypes
import json
from functools import cache

import numpy as np
import pytest
import torch
from adapting import SIDE, small_module, small_task
from channel_plans import every_other_channel
from device_store import Memory
from emitting import NARROW, WIDE, Emitted, arrays, ranges_of
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.c.emission import EmissionOptions, quantize_ranges
from costsim.c.emission.options import ClassMeans
from costsim.c.emission.store import BLOCK_BYTES, Slot, StoreLayout, newest_slot, slot_bytes
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.learning.training.backbone import Backbone

WAYS = 3


@cache
def emitted(bits=WIDE, seed=0):
    """The small network in C, and what it was made with."""
    torch.manual_seed(seed)
    backbone = Backbone(small_module(torch.float32), (3, SIDE, SIDE), name="small")
    task, graph = small_task(WAYS), backbone.graph(1)
    if seed:
        with torch.no_grad():
            next(iter(backbone.tensors.values())).add_(0.25)
    scales = None
    if bits == NARROW:
        ranges = ranges_of(graph, backbone.tensors, torch.tensor(task.images))
        scales = quantize_ranges(graph, arrays(backbone.tensors), ranges)
    program = compile_program(graph, every_other_channel(graph), TrainingStep(bits=bits))
    options = EmissionOptions(learning_rate=0.5, class_means=ClassMeans(WAYS))
    weights = arrays(backbone.tensors)
    beside = ["costsim_store"]
    return Emitted(program, weights, beside=beside, options=options, quantization=scales), task


def learn(device, task, steps):
    device.take_means(task.images, task.labels)
    for i in range(steps):
        device.step(task.images[[i]], task.labels[[i]])
    device.take_means(task.images, task.labels)


def state(device):
    """All that a reboot loses."""
    classes = ctypes.c_int32.in_dll(device.library, "costsim_classes").value
    weights = {name: value.tobytes() for name, value in device.updated().items()}
    return weights, device.means(WAYS).tobytes(), classes


def save(device, memory):
    return device.library.costsim_save(ctypes.byref(memory.store))


def load(device, memory):
    means = (ctypes.c_float * (4 * WAYS)).in_dll(device.library, "costsim_class_means")
    ctypes.memset(means, 0x55, ctypes.sizeof(means))  # a reboot
    return device.library.costsim_load(ctypes.byref(memory.store))


def layout_of(device):
    kept = json.loads(device.files["costsim_model.json"])["kept"]
    return StoreLayout(kept["bytes"], bytes.fromhex(kept["digest"]))


@pytest.mark.parametrize(("bits", "sector"), [(NARROW, 0), (NARROW, 4096), (WIDE, 0)])
def test_power_lost_at_any_write_leaves_what_was_saved_before(bits, sector):
    """At every block of a save (in 32 bits, which has more, some), of which any bytes arrived."""
    device, task = emitted(bits)
    device.library.costsim_init()
    layout = layout_of(device)
    slot = -(-layout.slot_bytes // 4096) * 4096 if sector else layout.slot_bytes
    memory = Memory(slot, sector)
    assert load(device, memory) == 1
    learn(device, task, 2)
    first = state(device)
    assert save(device, memory) == 0
    assert memory.written == layout.blocks + 1
    learn(device, task, 4)
    second = state(device)
    assert first[0] != second[0]
    assert first[1] != second[1]
    before = bytes(memory.content)
    lives = [(ctypes.c_char * len(device.arena())).in_dll(device.library, "costsim_arena")]
    lives.append((ctypes.c_char * len(second[1])).in_dll(device.library, "costsim_class_means"))
    images = [bytes(one) for one in lives]

    def attempt(writes):
        """A save of the second state, so many writes of which are done."""
        for one, image in zip(lives, images, strict=True):
            ctypes.memmove(one, image, len(image))
        ctypes.c_int32.in_dll(device.library, "costsim_classes").value = WAYS
        memory.left = writes
        return save(device, memory)

    every = 1 if bits == NARROW else 9
    for block in range(layout.blocks % every, layout.blocks + 1, every):
        for memory.torn in (
            (0, 17, BLOCK_BYTES - 1) if block == layout.blocks else (17 * block % 64,)
        ):
            memory.content[:] = before
            assert attempt(block) == 1
            assert load(device, memory) == 0
            assert state(device) == first
    assert attempt(1 << 30) == 0  # and it goes on from there
    assert load(device, memory) == 0
    assert state(device) == second


def test_saves_take_turns_and_the_newest_whole_one_is_loaded():
    device, task = emitted(WIDE)
    memory, states = Memory(layout_of(device).slot_bytes), []
    device.library.costsim_init()
    for steps in range(1, 5):
        learn(device, task, steps)
        states.append(state(device))
        assert save(device, memory) == 0
        assert load(device, memory) == 0
        assert state(device) == states[-1]
        found = newest_slot(bytes(memory.content), layout_of(device), "it")
        assert found.sequence == steps
        assert found.classes == WAYS
    newest = 1  # the second slot: saves 2 and 4
    memory.content[newest * memory.slot + 70] ^= 1
    assert load(device, memory) == 0
    assert state(device) == states[2]
    memory.content[30] ^= 1
    assert load(device, memory) == 1
    with pytest.raises(InputError, match=r"nothing whole.*it holds what is damaged"):
        newest_slot(bytes(memory.content), layout_of(device), "it")
    fresh = state(device)
    assert fresh[2] == 0
    initial = {n: device.weights[n].astype(np.float32).tobytes() for n in device.updated()}
    assert fresh[0] == initial


def test_a_memory_that_fails_while_it_is_read_is_told():
    device, task = emitted(WIDE)
    memory = Memory(layout_of(device).slot_bytes)
    device.library.costsim_init()
    initial = state(device)[0]
    learn(device, task, 3)
    assert save(device, memory) == 0
    for reads in (0, 3, layout_of(device).blocks + 2, layout_of(device).blocks + 5):
        memory.reads = reads
        assert load(device, memory) == 1
        assert state(device)[0] == initial
    memory.reads = 1 << 30
    assert load(device, memory) == 0


def test_what_another_model_saved_is_not_loaded():
    one, task = emitted(WIDE)
    other, _ = emitted(WIDE, seed=1)
    assert layout_of(one).kept_bytes == layout_of(other).kept_bytes
    memory = Memory(layout_of(one).slot_bytes)
    one.library.costsim_init()
    learn(one, task, 2)
    assert save(one, memory) == 0
    assert load(other, memory) == 1
    digest = layout_of(one).digest.hex()[:12]
    with pytest.raises(InputError, match=rf"it holds what is of the firmware {digest}"):
        newest_slot(bytes(memory.content), layout_of(other), "it")


@given(st.binary(max_size=200), st.integers(0, 9), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=60)
def test_slots_read_as_they_were_written_and_a_changed_byte_is_noticed(kept, classes, number, data):
    layout = StoreLayout(len(kept), b"0123456789abcdef")
    slot = Slot(kept, classes, number)
    older = Slot(bytes(len(kept)), 0, (number - 1) % 2**32)
    content = slot_bytes(layout, slot)
    assert len(content) == layout.slot_bytes
    for both in (content, content + slot_bytes(layout, older), slot_bytes(layout, older) + content):
        assert newest_slot(both, layout, "it") == slot
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InputError, match="nothing whole"):
        newest_slot(bytes(changed), layout, "it")


def test_the_hosts_slot_is_the_devices():
    """Byte by byte, and the device loads it."""
    device, task = emitted(NARROW)
    layout = layout_of(device)
    memory = Memory(layout.slot_bytes)
    device.library.costsim_init()
    learn(device, task, 3)
    assert save(device, memory) == 0
    found = newest_slot(bytes(memory.content), layout, "it")
    assert slot_bytes(layout, found) == bytes(memory.content[: memory.slot])
    again = Memory(layout.slot_bytes)
    again.content[: memory.slot] = slot_bytes(layout, found)
    wanted = state(device)
    device.library.costsim_init()
    assert load(device, again) == 0
    assert state(device) == wanted
