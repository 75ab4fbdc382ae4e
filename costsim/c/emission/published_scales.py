"""The representation of a published int8 network: the scales and zeros of its own file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission.quantization import SAME, Affine, Quantization, check_quantised
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Add, Convolution, Input, Mean
from costsim.models.networks.int8 import int8_layers, is_int8, read_arrays


def published_quantization(graph: LayerGraph, path: Path) -> Quantization | None:
    """Scales and zeros of the int8 network in `path`, for the `graph` of the same network.

    With them the forward pass in 8 bits is that network's own, integer by integer. None for a file
    of another kind. Nothing but arrays is unpickled. Raises `InputError`, naming the file, for one
    that is damaged or of another network, and `UnsupportedOperator` as `check_quantised` does.
    """
    try:
        document = read_arrays(path)
        if not is_int8(document):
            return None
        check_quantised(graph)
        return _quantization(graph, document)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, BadZipFile) as error:
        told = f"{type(error).__name__} {error}"
        raise InputError(f"{path}: is not an int8 network: {told}") from error


def _quantization(graph: LayerGraph, document: Any) -> Quantization:
    layers = iter([layer["params"] for layer in int8_layers(document)])
    sums = iter([b["residual"]["params"] for b in document["blocks"] if b["residual"] is not None])
    values: dict[str, Affine] = {}
    scales: dict[str, NDArray[np.float32]] = {}
    biases: dict[str, NDArray[np.int32]] = {}
    for call in graph.calls:
        match call.operator:
            case Input():
                values[call.name] = _affine(document["first_conv"]["params"], "x")
            case Convolution():
                params = _next(layers, call.name)
                assert call.weight is not None
                _same(values[call.inputs[0]], _affine(params, "x"), call.name)
                values[call.name] = _affine(params, "y")
                scales[call.weight.name] = _weight_scales(params, call.shape[1], call.name)
                if call.bias is not None:
                    bias = np.asarray(params["bias"], np.int32)
                    if bias.shape != call.bias.shape:
                        raise InputError(f"bias of {call.name} is {bias.shape}")
                    biases[call.bias.name] = bias
            case Add():
                params = _next(sums, call.name)
                _same(values[call.inputs[0]], _affine(params, "x"), call.name)
                values[call.name] = _affine(params, "y")
            case Mean():  # what the classifier reads, where there is one
                own = document.get("classifier") or {}
                given = own.get("params", own)
                before = values[call.inputs[0]]
                values[call.name] = _affine(given, "x") if "x_scale" in given else before
            case o if isinstance(o, SAME):
                values[call.name] = values[call.inputs[0]]
            case o:
                raise InputError(f"holds no scale of call {call.name!r} ({o.kind})")
    if (left := len(list(layers)) + len(list(sums))) > 0:
        raise InputError(f"holds {left} layers more than the network")
    return Quantization(values, scales, biases)


def _next(found: Iterator[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    params: Mapping[str, Any] | None = next(found, None)
    if params is None:
        raise InputError(f"holds nothing for {name}")
    return params


def _affine(params: Mapping[str, Any], of: str) -> Affine:
    scale, zero = float(params[f"{of}_scale"]), params[f"{of}_zero"]
    return Affine(float(np.float32(scale)), int(zero))


def _same(value: Affine, read: Affine, name: str) -> None:
    if value != read:
        raise InputError(
            f"{name} reads values of scale {read.scale:g} and zero {read.zero}, and gets some of "
            f"scale {value.scale:g} and zero {value.zero}"
        )


def _weight_scales(params: Mapping[str, Any], channels: int, name: str) -> NDArray[np.float32]:
    scales = np.asarray(params["w_scales"], np.float32)
    if scales.shape != (channels,) or not (np.isfinite(scales) & (scales > 0)).all():
        raise InputError(f"w_scales of {name} are not {channels} positive numbers")
    return scales
