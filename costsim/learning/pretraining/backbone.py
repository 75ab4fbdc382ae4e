"""A backbone made ready for training, and its outcome for inference."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError
from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS, find_architecture
from costsim.models.networks.build import FrozenBatchNorm, Network, build, fold
from costsim.models.networks.weights import load_weights


def load_backbone(
    spec: str, *, weights: Path | None, seed: int, resolution: int
) -> tuple[nn.Module, str]:
    """The model that `spec` names, ready for training, and a sentence on its weights.

    A built-in network starts from `seed`, or from any file that `costsim.models.networks` reads.
    Its batch norms learn, but weights in which they are folded are trained without any: statistics
    of training batches would change a function that was trained with others. A factory's module is
    taken as it is.

    Raises `InputError` as `costsim.models.loading.load_model` does, and for exported programs.
    """
    if spec.endswith(".pt2"):
        raise InputError(f"{spec}: an exported program cannot be trained; give the model itself")
    if spec not in NETWORKS:
        loaded = load_model(spec, weights=weights, seed=seed, resolution=resolution)
        return loaded.module, loaded.provenance
    if weights is None:
        return trainable(build(spec, seed=seed, batch_norm=True)), f"from scratch, seed {seed}"
    try:
        network, says = load_weights(spec, weights, batch_norm=True)
    except InputError as error:
        if "folded" not in str(error):
            raise
        network, says = load_weights(spec, weights)
    return trainable(network), says


def trainable(network: Network) -> Network:
    """The same network with ordinary batch norms in place of the frozen ones."""
    for name, module in list(network.named_modules()):
        if isinstance(module, FrozenBatchNorm):
            norm = nn.BatchNorm2d(module.num_features, eps=module.eps)
            norm.load_state_dict(module.state_dict())
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, norm)
    return network


def inference_tensors(module: nn.Module, *, half: bool = False) -> Mapping[str, Tensor]:
    """What is written for inference: a built-in network folded, any other as it is.

    `half`: floating-point tensors in half precision; raises `InputError` if a value leaves its
    range.
    """
    source = fold(module) if isinstance(module, Network) else module
    found = {name: tensor.detach().cpu() for name, tensor in source.state_dict().items()}
    if not half:
        return found
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in found.items()
    }
    for name, tensor in halves.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has values beyond half precision; write it in float32")
    return halves


def feature_count(module: nn.Module, resolution: int) -> int:
    """Length of the features of one image; raises `InputError` for a model without any."""
    if isinstance(module, Network):
        return find_architecture(module.architecture.name).features
    was = module.training
    with torch.no_grad():
        outputs = module.eval()(torch.zeros(2, 3, resolution, resolution))
    module.train(was)
    if not isinstance(outputs, Tensor) or len(outputs) != 2 or outputs.ndim < 2:
        raise InputError("the model must return features [N, ...] for images [N, 3, H, W]")
    return outputs[0].numel()
