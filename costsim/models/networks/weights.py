"""Reading weight files of the built-in networks, without running anything a file contains.

Three kinds of file are understood, told apart by what they contain:

- the int8 networks of "On-Device Training Under 256KB Memory" (Lin et al., 2022): batch norm
  folded, quantised by channel; read back as float;
- float state dicts of the mcunet and ProxylessNAS repositories: batch norm, 1000-way head;
- state dicts of this library's own modules, by `torch.save` or as safetensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.models.networks.architectures import Architecture, find_architecture
from costsim.models.networks.build import Network, fold
from costsim.models.networks.int8 import int8_layers, is_int8
from costsim.models.networks.tensors import read_document, state_of

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def load_weights(name: str, path: str | Path, *, batch_norm: bool = False) -> tuple[Network, str]:
    """The built-in network `name` with the weights in `path`, and a sentence on what they are.

    The network is in evaluation mode and folded, or with `batch_norm` as the file has it. A
    network whose file lacks the final feature mix is built without it. Int8 weights become
    `weight * w_scale` and `bias * x_scale * w_scale`; the float network has ReLU6 where the int8
    one saturates at the range of its 8-bit output, which is at most 6 (and is a limit for linear
    outputs too), so that features differ a little from the int8 ones. Pixels are to be in
    [-1, 1] for int8 files, and normalised as in their training for the others.

    Raises `InputError` for a missing, truncated or foreign file, a pickle that asks for anything
    but arrays, another architecture (which layer, which shapes), NaN or infinite values, and for
    `batch_norm` where the file has none.
    """
    path = Path(path)
    architecture = find_architecture(name)
    document = read_document(path)
    if is_int8(document):
        if batch_norm:
            raise InputError(f"{path}: int8 weights have their batch norm folded; there is none")
        return _from_int8(architecture, document, path)
    state = state_of(document, path)
    if "first_conv.conv.weight" in state:
        return _from_published(architecture, state, path, batch_norm)
    if "stem.weight" in state:
        return _from_own(architecture, state, path, batch_norm)
    raise InputError(
        f"{path}: unknown weights; the first entries are {', '.join(list(state)[:3]) or 'none'}"
    )


def _select(architecture: Architecture, count: int, has_mix: bool, path: Path) -> Architecture:
    """The architecture with or without its mix, as the file has it; the layer count must fit."""
    form = ""
    if architecture.feature_mix and not has_mix:
        architecture, form = architecture.without_feature_mix(), " without feature mix"
    needed = len(list(architecture.convolutions()))
    if count != needed:
        raise InputError(
            f"{path}: holds {count} convolutions; {architecture.name}{form} has {needed}"
        )
    return architecture


def _assign(target: Tensor | None, value: Tensor, where: str, path: Path) -> None:
    assert target is not None
    if target.shape != value.shape:
        raise InputError(
            f"{path}: {where} has shape {tuple(value.shape)}; "
            f"the network needs {tuple(target.shape)}"
        )
    if target.is_floating_point() and not value.is_floating_point():
        raise InputError(f"{path}: {where} is of {value.dtype}; floating-point numbers are needed")
    if not torch.isfinite(value).all():
        raise InputError(f"{path}: {where} has values that are NaN or infinite")
    with torch.no_grad():
        target.copy_(value)


def _from_int8(
    architecture: Architecture, document: Mapping[str, Any], path: Path
) -> tuple[Network, str]:
    try:
        layers, has_mix = int8_layers(document), document.get("feature_mix") is not None
        parameters = [layer["params"] for layer in layers]
        architecture = _select(architecture, len(layers), has_mix, path)
        network = Network(architecture)
        for (spec, convolution, _), values in zip(network.convolutions(), parameters, strict=True):
            channel_scales = np.asarray(values["w_scales"], np.float64)
            weight = np.asarray(values["weight"], np.float64)
            bias = np.asarray(values["bias"], np.float64)
            if weight.ndim != 4 or not len(weight) == len(channel_scales) == len(bias):
                raise InputError(
                    f"{path}: {spec.name} has weight {weight.shape}, w_scales "
                    f"{channel_scales.shape} and bias {bias.shape}, which do not fit together"
                )
            weight = weight * channel_scales[:, None, None, None]
            bias = bias * (float(values["x_scale"]) * channel_scales)
            _assign(convolution.weight, torch.from_numpy(weight), f"{spec.name}.weight", path)
            _assign(convolution.bias, torch.from_numpy(bias), f"{spec.name}.bias", path)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is not an int8 network: {type(error).__name__} {error}"
        ) from error
    says = f"int8 weights of {architecture.name} from {path.name}, read as float"
    return network.eval(), says + _mix_note(architecture)


def _from_published(
    architecture: Architecture, state: Mapping[str, Tensor], path: Path, batch_norm: bool
) -> tuple[Network, str]:
    # Empty blocks are counted in the file's names and have no entries: only the order matches.
    prefixes = [key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")]
    has_mix = any(prefix.startswith("feature_mix") for prefix in prefixes)
    architecture = _select(architecture, len(prefixes), has_mix, path)
    network = Network(architecture, batch_norm=True)
    for (_, convolution, norm), prefix in zip(network.convolutions(), prefixes, strict=True):
        _assign(convolution.weight, state[f"{prefix}.conv.weight"], f"{prefix}.conv.weight", path)
        for statistic in _STATISTICS:
            key = f"{prefix}.bn.{statistic}"
            if key not in state:
                raise InputError(f"{path}: {key} is missing")
            _assign(getattr(norm, statistic), state[key], key, path)
    says = f"float weights of {architecture.name} from {path.name}, classifier left out"
    return _finished(network, batch_norm), says + _mix_note(architecture)


def _from_own(
    architecture: Architecture, state: Mapping[str, Tensor], path: Path, batch_norm: bool
) -> tuple[Network, str]:
    has_norm = "stem_norm.weight" in state
    if batch_norm and not has_norm:
        raise InputError(f"{path}: the weights have their batch norm folded; there is none")
    count = sum(key.endswith(".weight") and not key.endswith("_norm.weight") for key in state)
    architecture = _select(architecture, count, "mix.weight" in state, path)
    network = Network(architecture, batch_norm=has_norm)
    targets = network.state_dict()
    if odd := sorted(targets.keys() ^ state.keys()):
        says = "is missing" if odd[0] in targets else "does not belong to the network"
        raise InputError(f"{path}: {odd[0]} {says}")
    for key, target in targets.items():
        _assign(target, state[key], key, path)
    says = f"weights of {architecture.name} from {path.name}"
    return _finished(network, batch_norm or not has_norm), says + _mix_note(architecture)


def _finished(network: Network, as_it_is: bool) -> Network:
    return network.eval() if as_it_is else fold(network)


def _mix_note(architecture: Architecture) -> str:
    whole = find_architecture(architecture.name)
    if whole.feature_mix == architecture.feature_mix:
        return ""
    return f"; without feature mix, which the file lacks: {architecture.features} features"
