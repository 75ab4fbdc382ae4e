"""The published int8 networks: their own scales, their own integers, layer by layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_default import by_default
from published_weights import INT8, int8_document, write_int8
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.c.emission import EmissionOptions, integers, published_quantization
from costsim.c.emission.reference import Reference
from costsim.data import open_images, sample_task
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.loading import load_model
from costsim.models.networks.graph import architecture_graph
from costsim.models.networks.int8 import int8_layers, read_arrays
from costsim.models.networks.shipped import RANDOM
from costsim.models.networks.weights import load_weights
from costsim.run.execution.ranges import value_ranges

NARROW = BitWidths(8, 8, 32, 32)


def quantised(name: str, path: Path, side: int = 128):
    """The loader's float network, its graph, and its scales."""
    network, _ = load_weights(name, path)
    graph = architecture_graph(network.architecture, resolution=side)
    return network, graph, published_quantization(graph, path)


def arrays(network) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def published_forward(document, image: torch.Tensor) -> list[torch.Tensor]:
    """Integers of every convolution and sum, and of the features, as the file defines them.

    `q = clamp(round(x_scale w_scale / y_scale * (sum + bias)) + y_zero)` with
    `sum = conv(x - x_zero, weight)`: no graph, no emission, sums in PyTorch's doubles.
    """
    found = []

    def convolution(layer, x: torch.Tensor) -> torch.Tensor:
        p, size = layer["params"], layer["kernel_size"][0]
        sums = F.conv2d(
            (x - p["x_zero"]).double(),
            torch.tensor(p["weight"]).double(),
            stride=layer["stride"],
            padding=size // 2,
            groups=layer["groups"],
        )
        sums = sums + torch.tensor(p["bias"]).double()[:, None, None]
        sums = sums.clamp(-(2**31), 2**31 - 1).float()
        factor = np.float32(p["x_scale"]) * p["w_scales"] / np.float32(p["y_scale"])
        y = (sums * torch.from_numpy(factor)[:, None, None]).round() + p["y_zero"]
        found.append(y.clamp(-128, 127))
        return found[-1]

    first = document["first_conv"]
    p = first["params"]
    x = ((image / float(np.float32(p["x_scale"]))).round() + p["x_zero"]).clamp(-128, 127)
    x, zero, scale = convolution(first, x), first["params"]["y_zero"], first["params"]["y_scale"]
    for block in document["blocks"]:
        start, start_zero, start_scale = x, zero, scale
        for stage in ("pointwise1", "depthwise", "pointwise2"):
            if block[stage] is not None:
                x, own = convolution(block[stage], x), block[stage]["params"]
                zero, scale = own["y_zero"], own["y_scale"]
        if block["residual"] is not None:
            p = block["residual"]["params"]
            parts = [
                (v - z).float() * (np.float32(s) / np.float32(p["y_scale"]))
                for v, z, s in ((start, start_zero, start_scale), (x, zero, scale))
            ]
            x = ((parts[0] + parts[1]).round() + p["y_zero"]).clamp(-128, 127)
            found.append(x)
            zero, scale = p["y_zero"], p["y_scale"]
    p = document["classifier"]["params"]
    mean = (x - zero).float().sum((2, 3)) * np.float32(
        np.float32(scale) / (np.float32(x[0, 0].numel()) * np.float32(p["x_scale"]))
    )
    found.append((mean.round() + p["x_zero"]).clamp(-128, 127))
    return found


def images(shared: Path, count: int, side: int) -> np.ndarray:
    source = open_images(shared / "data" / "mini_imagenet.tar.gz", "test")
    task = sample_task(source, ways=count, shots=1, seed=0, resolution=side)
    return np.asarray(task.images, np.float32)


@pytest.mark.parametrize("name", by_default(INT8, ["mcunet-5fps"]))
def test_the_forward_pass_is_the_published_networks(shared: Path, name: str) -> None:
    """Every integer of every layer, on a real image."""
    path = shared / "weights" / INT8[name]
    network, graph, scales = quantised(name, path)
    program = compile_program(graph, UpdatePlan(), TrainingStep(bits=NARROW))
    stored = integers(graph, arrays(network), scales)
    document = read_arrays(path)
    convolutions = [call for call in graph.calls if call.operator.kind == "convolution"]
    for call, layer in zip(convolutions, int8_layers(document), strict=True):
        assert np.array_equal(stored[call.weight.name], layer["params"]["weight"])
        assert np.array_equal(stored[call.bias.name], layer["params"]["bias"])
    reference = Reference(program, stored, scales, EmissionOptions(), fused=True)
    image = images(shared, 1, 128)
    reference.step(image, np.array([3]))
    wanted = published_forward(document, torch.tensor(image))
    kinds = ("convolution", "add", "mean")
    found = [call for call in graph.calls if call.operator.kind in kinds]
    for call, expected in zip(found, wanted, strict=True):
        integer = reference.values[call.name].astype(np.float32)
        assert np.array_equal(integer, expected.numpy()), call.name


@pytest.mark.parametrize("name", by_default(INT8, ["mcunet-5fps"]))
def test_features_are_near_those_of_the_float_network(shared: Path, name: str) -> None:
    """The loader reads the same file as floats: with its scales features are nearer than far."""
    path = shared / "weights" / INT8[name]
    network, graph, scales = quantised(name, path, side=96)
    program = compile_program(graph, UpdatePlan(), TrainingStep(bits=NARROW))
    stored = integers(graph, arrays(network), scales)
    reference = Reference(program, stored, scales, EmissionOptions())
    x = images(shared, 4, 96)
    a = scales.values[graph.output]
    with torch.no_grad():
        wanted = network(torch.tensor(x)).numpy()
    found = []
    for image in x:
        reference.step(image[None], np.array([0]))
        found.append(np.float32(a.scale) * (reference.values[graph.output][0] - float(a.zero)))
    for mine, theirs in zip(found, wanted, strict=True):
        alike = [np.corrcoef(mine, other)[0, 1] for other in wanted]
        assert alike[int(np.argmax(alike))] == np.corrcoef(mine, theirs)[0, 1]
        assert max(alike) > 0.9


def test_the_file_is_taken_by_whoever_needs_scales(tmp_path: Path) -> None:
    from costsim.hardware.boards.scales import find_scales

    path = write_published(tmp_path / "w.pkl")
    loaded = load_model("mcunet-5fps", weights=path, resolution=32)
    graph = architecture_graph("mcunet-5fps", resolution=32)
    tensors, image = dict(loaded.module.state_dict()), torch.zeros(1, 3, 32, 32)
    _, told = find_scales(graph, tensors, lambda: image, RANDOM)
    assert "taken from 1 image" in told
    scales, told = find_scales(graph, tensors, lambda: image, path)
    assert "of the published network in w.pkl" in told
    stem = graph.calls[1]
    params = read_arrays(path)["first_conv"]["params"]
    assert scales.values[stem.name].scale == float(np.float32(params["y_scale"]))
    assert np.array_equal(scales.weight_scales[stem.weight.name], params["w_scales"])
    own = tmp_path / "own.pt"
    torch.save(loaded.module.state_dict(), own)
    other, told = find_scales(graph, tensors, lambda: image, own)
    assert "from 1 image" in told
    low, high = value_ranges(graph, tensors, image)[graph.output]
    assert other.values[graph.output].scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)


def write_published(path: Path, change=lambda _document: None) -> Path:
    """A file like the published ones, whose scales fit together."""
    document = int8_document("mcunet-5fps")
    previous = (0.02, 0)
    document["first_conv"]["params"] |= {"x_scale": previous[0], "x_zero": previous[1]}
    layers = int8_layers({**document, "blocks": []})
    for block in [None, *document["blocks"]]:
        stages: list[Any] = list(layers)
        if block is not None:
            stages = [stage for stage in block.values() if isinstance(stage, dict)]
        for layer in stages:
            layer["params"] |= {"x_scale": previous[0], "x_zero": previous[1]}
            previous = (layer["params"]["y_scale"], layer["params"]["y_zero"])
        if block is not None:
            block["residual"] = None
    from costsim.models.networks import NETWORKS

    previous = (0.0, 0)
    for row, block in zip(NETWORKS["mcunet-5fps"].blocks, document["blocks"], strict=True):
        if row.shortcut:
            first = next(s for s in block.values() if isinstance(s, dict))["params"]
            own = {"x_scale": first["x_scale"], "x_zero": first["x_zero"]}
            block["residual"] = {"params": {**own, "y_scale": 6 / 255, "y_zero": -128}}
    change(document)
    return write_int8(path, document)


def spoil(document, where, key, value) -> None:
    params = document["blocks"][3][where]["params"]
    params[key] = value if not callable(value) else value(params[key])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: spoil(d, "depthwise", "x_scale", 0.5), r"blocks\.3\.depthwise reads values of"),
        (lambda d: spoil(d, "depthwise", "y_scale", 0.0), "scale 0 and zero -128"),
        (lambda d: spoil(d, "pointwise2", "w_scales", lambda w: w * np.nan), "positive numbers"),
        (lambda d: spoil(d, "pointwise2", "y_zero", 300), "zero 300"),
        (lambda d: d["blocks"].pop(), "holds nothing for"),
        (lambda d: d["blocks"].append(d["blocks"][-1]), "holds 3 layers more"),
        (lambda d: d["blocks"][3].pop("residual"), "is not an int8 network: KeyError 'residual'"),
    ],
)
def test_scales_that_do_not_fit_are_refused_with_their_layer(tmp_path, change, told) -> None:
    path = write_published(tmp_path / "w.pkl", change)
    graph = architecture_graph("mcunet-5fps", resolution=32)
    with pytest.raises(InputError, match=told) as caught:
        published_quantization(graph, path)
    assert str(caught.value).startswith(str(path))


def test_other_files_are_none_and_other_networks_are_refused(tmp_path: Path) -> None:
    graph = architecture_graph("mcunet-5fps", resolution=32)
    tensors = tmp_path / "t.pt"
    torch.save({"a": torch.zeros(2)}, tensors)
    assert published_quantization(graph, tensors) is None
    text = tmp_path / "x.txt"
    text.write_text("no weights")
    assert published_quantization(graph, text) is None
    cut = tmp_path / "cut.pkl"
    cut.write_bytes(write_published(tmp_path / "w.pkl").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.pkl: is not an int8 network: BadZipFile"):
        published_quantization(graph, cut)
    with pytest.raises(InputError, match="cannot be read"):
        published_quantization(graph, tmp_path / "absent.pkl")
    path = write_published(tmp_path / "w.pkl")
    with pytest.raises(InputError, match=r"w\.pkl: w_scales of blocks\.1\.expand are not 48"):
        published_quantization(architecture_graph("mbv2-w0.35", resolution=32), path)
    with pytest.raises(UnsupportedOperator, match="no 8-bit kernel"):
        published_quantization(
            architecture_graph("mcunet-5fps", resolution=32, batch_norm=True), path
        )
