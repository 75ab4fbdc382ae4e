"""Class means in C: their loss and gradient, the answer, images of a camera, a whole adaptation."""

import ctypes
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from adapting import SIDE, small_module, small_task
from emitting import FLOATS, NARROW, WIDE, Emitted, arrays, ranges_of
from graphs import inverted_bottleneck
from running import random_images, random_tensors

from costsim.base.errors import InputError
from costsim.c.emission import EmissionOptions, integers, quantize_ranges
from costsim.c.emission.options import ClassMeans
from costsim.c.emission.reference import Reference
from costsim.data.pixels import to_float
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.learning.training.backbone import Backbone
from costsim.learning.training.classifier import classify
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import CACHE_BYTES, FrozenValues
from costsim.learning.training.trainer import Support, Trainer
from costsim.run.criteria.loss import prototypes
from costsim.run.execution.forward import evaluate

WAYS = 3


def half(graph):
    """Half of the channels of two layers, and a bias."""
    names = [name for name in graph.layers if graph.layers[name].bias is not None]
    subsets = tuple(
        ChannelSubset(name, "output", tuple(range(0, graph.channels(name, "output"), 2)))
        for name in names[-3:-1]
    )
    return UpdatePlan(subsets, frozenset(names[-1:]))


class Device:
    """The small network's step for one image in C, of a task by class means."""

    def __init__(self, bits=WIDE, rate=0.05, **options):
        self.backbone = Backbone(small_module(torch.float32), (3, SIDE, SIDE), name="small")
        self.task = small_task(WAYS)
        graph = self.graph = self.backbone.graph(1)
        self.plan = half(graph)
        self.program = compile_program(graph, self.plan, TrainingStep(bits=bits))
        self.options = EmissionOptions(learning_rate=rate, class_means=ClassMeans(5), **options)
        self.images, self.labels = self.task.images, self.task.labels
        tensors, self.scales = self.backbone.tensors, None
        if bits == NARROW:
            ranges = ranges_of(graph, tensors, torch.tensor(self.images))
            self.scales = quantize_ranges(graph, arrays(tensors), ranges)
        self.emitted = Emitted(
            self.program, arrays(tensors), beside=["costsim_adapt"], options=self.options,
            quantization=self.scales,
        )  # fmt: skip

    def trainer(self, **recipe):
        """PyTorch's loop on the same task and plan."""
        given = Recipe(
            optimizer="sgd", batch=1, augment=False, learning_rate=self.options.learning_rate,
            **recipe,
        )  # fmt: skip
        copies = Copies(torch.tensor(self.images), given)
        frozen = FrozenValues(self.backbone, CACHE_BYTES)
        support = Support(copies, torch.tensor(self.labels), frozen)
        return Trainer(self.backbone, self.plan, support, self.options.learning_rate)

    def reference(self):
        """The numpy reference of the same."""
        weights = integers(self.graph, arrays(self.backbone.tensors), self.scales)
        return Reference(self.program, weights, self.scales, self.options)


def follow(device, trainer, steps):
    """The trainer's steps in C: losses of both, class means as they were last."""
    found, wanted, emitted = [], [], device.emitted
    for _ in range(steps):
        if trainer.batch == 0 and trainer.iteration % trainer.recipe.means_interval == 0:
            emitted.take_means(device.images, device.labels)
        (place,) = trainer.samples()
        found.append(emitted.step(device.images[[place]], device.labels[[place]]))
        wanted.append(trainer.step())
    return found, wanted


def test_in_32_bits_class_means_and_steps_are_those_of_pytorchs_trainer():
    device = Device()
    trainer = device.trainer(iterations=4, means_interval=2, image_interval=2)
    found, wanted = follow(device, trainer, 4 * len(device.images) // 2)
    assert trainer.iteration == 4
    assert found == pytest.approx(wanted, rel=2e-4, abs=2e-6)
    tensors = device.backbone.tensors
    for name, value in device.emitted.updated().items():
        assert np.abs(value - tensors[name].detach().numpy()).max() < 1e-5, name
        assert not np.array_equal(value, device.emitted.weights[name]), name
    emitted = device.emitted
    emitted.take_means(device.images, device.labels)
    features = device.backbone.features(torch.tensor(device.images)).flatten(1)
    means = prototypes(features, torch.tensor(device.labels))
    unit = torch.nn.functional.normalize(means).numpy()
    assert emitted.means(WAYS) == pytest.approx(unit, abs=1e-5)
    queries = torch.tensor(device.task.query_images)
    rows = device.backbone.features(queries).flatten(1)
    answers = classify(rows, means, torch.tensor(device.task.query_labels), 10.0)
    given = [emitted.classify(one[None]) for one in device.task.query_images]
    assert [int(label[0]) for label, _ in given] == answers.predictions.tolist()
    likely = [float(score[0]) for _, score in given]
    normal = torch.nn.functional.normalize
    shares = (10 * normal(rows) @ normal(means).T).softmax(1).amax(1)
    assert likely == pytest.approx(shares.tolist(), rel=1e-4)


@pytest.mark.parametrize("passes", [1, 2])
def test_steps_of_several_images_are_those_of_autograd(passes):
    """In place and not, with a share of every pass in the loss of the step."""
    graph = inverted_bottleneck()
    step = TrainingStep(graph.batch * passes, graph.batch if passes > 1 else None)
    tensors = random_tensors(graph, torch.float64)
    plan = UpdatePlan.full(graph)
    rate = 1e-2
    options = EmissionOptions(learning_rate=rate, class_means=ClassMeans(3, 7.0))
    emitted = Emitted(compile_program(graph, plan, step), arrays(tensors), options=options)
    x = random_images(graph, step, torch.float64)
    labels = torch.arange(len(x)) % 2
    emitted.take_means(x.numpy(), labels.numpy())
    own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    outputs = torch.cat([evaluate(graph, own, part)[0].flatten(1) for part in x.split(graph.batch)])
    normal = torch.nn.functional.normalize
    cosines = normal(outputs) @ normal(prototypes(outputs, labels)).T
    loss = torch.nn.functional.cross_entropy(7 * cosines, labels)
    loss.backward()
    assert emitted.step(x.numpy(), labels.numpy()) == pytest.approx(loss.item(), rel=1e-4)
    for name, value in emitted.updated().items():
        wanted = own[name].detach() - rate * own[name].grad
        scale = max(1.0, float(wanted.abs().max()))
        assert np.abs(value - wanted.numpy()).max() < 2e-5 * scale, name


def test_in_8_bits_every_bit_is_the_references():
    device = Device(NARROW, rate=1.0)
    emitted, reference = device.emitted, device.reference()
    before = {name: value.copy() for name, value in reference.weights.items()}
    for _ in range(2):
        emitted.take_means(device.images, device.labels)
        reference.take_means(device.images, device.labels)
        assert np.array_equal(emitted.means(WAYS), reference.classifier.means)
        for image, label in zip(device.images, device.labels, strict=True):
            loss = reference.step(image[None], label[None])
            assert emitted.step(image[None], label[None]) == loss
    for name, value in emitted.updated().items():
        assert np.array_equal(value, reference.weights[name]), name
        assert not np.array_equal(value, before[name]), name
    for image in device.task.query_images:
        labels, scores = reference.classifier.classify(reference.features(image[None]))
        given = emitted.classify(image[None])
        assert np.array_equal(given[0], labels)
        assert np.array_equal(given[1], scores)
    assert emitted.stray_writes(device.images[:1], device.labels[:1]) == []


@pytest.mark.parametrize("bits", [WIDE, NARROW])
def test_bytes_of_a_camera_are_the_images_of_pytorch(bits):
    """Rows further apart than they are long; whole, and row by row."""
    device = device_of(bits)
    rng = np.random.default_rng(0)
    _, channels, height, width = device.images.shape
    stride = width * channels + 5
    levels = rng.integers(0, 256, (height, stride)).astype(np.uint8)
    pixels = levels[:, : width * channels].reshape(height, width, channels)
    image = np.ascontiguousarray(to_float(pixels.transpose(2, 0, 1)))[None]
    wanted = device.emitted.predict(image)
    library, place = device.emitted.library, input_of(device)
    library.costsim_image(0, levels.ctypes.data_as(ctypes.c_void_p), stride)
    out = np.empty_like(wanted)
    library.costsim_predict(place, out.ctypes.data_as(FLOATS))
    assert np.array_equal(out, wanted)
    for row in range(height):
        library.costsim_image_row(0, row, levels[row].ctypes.data_as(ctypes.c_void_p))
    library.costsim_predict(place, out.ctypes.data_as(FLOATS))
    assert np.array_equal(out, wanted)


@cache
def device_of(bits):
    return Device(bits)


def input_of(device):
    """`COSTSIM_INPUT`."""
    memory = device.emitted.memory
    offset = memory.arena.offsets_bytes[memory.index[device.graph.input]]
    size = memory.arena.size_bytes
    arena = (ctypes.c_char * size).in_dll(device.emitted.library, "costsim_arena")
    return ctypes.cast(ctypes.addressof(arena) + offset, FLOATS)


SHOW = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32
)


class CTask(ctypes.Structure):
    """`costsim_task`."""

    _fields_ = (
        ("images", ctypes.c_int32), ("classes", ctypes.c_int32),
        ("show", SHOW), ("context", ctypes.c_void_p),
    )  # fmt: skip


def adapt(device, images, labels, stop_at=None):
    """The loop in C: its loss, and which image it asked for in which iteration."""
    library, place = device.emitted.library, input_of(device)
    library.costsim_adapt.restype = ctypes.c_float
    asked = []

    def show(_, image, iteration, sample):
        asked.append((iteration, image))
        if len(asked) == stop_at:
            return -1
        assert sample == 0
        given = images[image]
        if device.scales is not None:
            given = device.scales.values[device.graph.input].quantise(given)
        ctypes.memmove(place, np.ascontiguousarray(given).ctypes.data, given.nbytes)
        return int(labels[image])

    task = CTask(len(images), WAYS, SHOW(show), None)
    library.costsim_init()
    return library.costsim_adapt(ctypes.byref(task)), asked


@pytest.mark.parametrize("bits", [WIDE, NARROW])
def test_the_loop_in_c_is_the_recipes_and_learns(bits):
    """Every image once in so many iterations; class means when they are due, and at the end."""
    device = Device(bits, rate=0.02 if bits == WIDE else 0.5,
                    iterations=6, image_interval=2, means_interval=3)  # fmt: skip
    images, labels = device.images, device.labels
    count = len(images)
    loss, asked = adapt(device, images, labels)
    plain = [image for iteration, image in asked if iteration < 0]
    assert plain == [*range(count)] * 3
    for first in range(0, 6, 2):
        shown = [image for iteration, image in asked if iteration in (first, first + 1)]
        assert sorted(shown) == list(range(count))
    for iteration in range(6):
        shown = [image for at, image in asked if at == iteration]
        assert set(labels[shown]) == set(range(WAYS))
        assert shown != sorted(shown)
    ends = [i for i, (iteration, _) in enumerate(asked) if iteration < 0]
    assert ends == [*range(count), *range(2 * count + count // 2, 3 * count + count // 2),
                    *range(len(asked) - count, len(asked))]  # fmt: skip

    def right():
        found = [device.emitted.classify(one[None])[0][0] for one in device.task.query_images]
        return float(np.mean(found == device.task.query_labels))

    after = right()
    by_hand = device.emitted.updated()
    device.emitted.library.costsim_init()
    device.emitted.take_means(images, labels)
    start = device.emitted.means(WAYS)
    again = [device.emitted.step(i[None], n[None]) for i, n in zip(images, labels, strict=True)]
    assert np.isfinite(loss)
    if bits == WIDE:
        assert loss < np.mean(again)
    device.emitted.library.costsim_init()
    for iteration in range(6):
        if iteration % 3 == 0:
            device.emitted.take_means(images, labels)
        for at, image in asked:
            if at == iteration:
                device.emitted.step(images[[image]], labels[[image]])
    device.emitted.take_means(images, labels)
    assert right() == after
    assert not np.array_equal(device.emitted.means(WAYS), start)
    for name, value in device.emitted.updated().items():
        assert np.array_equal(value, by_hand[name]), name


def test_what_stops_an_adaptation_stops_it():
    device = device_of(WIDE)
    loss, asked = adapt(device, device.images, device.labels, stop_at=20)
    assert np.isnan(loss)
    assert len(asked) == 20
    loss, asked = adapt(device, device.images[:0], device.labels)
    assert np.isnan(loss)
    assert asked == []
    wrong = np.array(device.labels)
    wrong[3] = WAYS
    loss, _ = adapt(device, device.images, wrong)
    assert np.isnan(loss)


def test_labels_and_numbers_of_classes_that_there_cannot_be_change_nothing():
    device = device_of(WIDE)
    emitted = device.emitted
    emitted.library.costsim_init()
    assert np.isnan(emitted.step(device.images[:1], device.labels[:1]))  # no class means yet
    assert emitted.begin_means(1) == emitted.begin_means(6) == 1
    emitted.take_means(device.images, device.labels)
    means, weights = emitted.means(WAYS), emitted.updated()
    for label in (-1, WAYS, 1 << 30):
        assert np.isnan(emitted.step(device.images[:1], np.array([label])))
    assert emitted.begin_means(WAYS) == 0
    for i, label in enumerate(device.labels):
        emitted.add_to_means(device.images[[i]], np.array([label]))
        emitted.add_to_means(device.images[[i]], np.array([-1 if i % 2 else WAYS]))
    emitted.library.costsim_end_means()
    assert np.array_equal(emitted.means(WAYS), means)
    for name, value in emitted.updated().items():
        assert np.array_equal(value, weights[name]), name


HOOK = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)


def test_a_hook_is_called_before_every_operation_and_may_end_it():
    device = device_of(NARROW)
    emitted, program = device.emitted, device.program
    emitted.library.costsim_init()
    emitted.take_means(device.images, device.labels)
    called: list[int] = []
    stop: list[int | None] = [None]

    def between(operation):
        called.append(operation)
        return int(operation == stop[0])

    hook = HOOK(between)
    pointer = ctypes.c_void_p.in_dll(emitted.library, "costsim_hook")
    pointer.value = ctypes.cast(hook, ctypes.c_void_p).value
    weights = emitted.updated()
    try:
        for stop[0] in (0, program.loss_position, program.loss_position + 1):
            called.clear()
            assert np.isnan(emitted.step(device.images[:1], device.labels[:1]))
            assert called == list(range(stop[0] + 1))
        for name, value in emitted.updated().items():
            assert np.array_equal(value, weights[name]), name
        stop[0] = None
        called.clear()
        assert np.isfinite(emitted.step(device.images[:1], device.labels[:1]))
        assert called == list(range(len(program.operations)))
    finally:
        pointer.value = None


def test_settings_that_are_none_are_refused():
    with pytest.raises(InputError, match="class means of 1"):
        ClassMeans(1)
    with pytest.raises(InputError, match="temperature is 0"):
        ClassMeans(2, 0.0)
    assert replace(EmissionOptions(), class_means=ClassMeans(2)).class_means.temperature == 10
