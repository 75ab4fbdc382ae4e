"""Weight files as MCUNet publishes them: the names of those there are, and random ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from costsim.models.networks import NETWORKS

INT8 = {
    "mcunet-5fps": "mcunet-5fps.int8.pkl",
    "mbv2-w0.35": "mbv2-w0.35.int8.pkl",
    "proxyless-w0.3": "proxyless-w0.3.int8.pkl",
}
FLOAT = {
    "proxyless-w0.3": "proxyless-w0.3-r176_imagenet.pth",
    "mcunet-320kb-1mb": "mcunet-320kb-1mb_imagenet.pth",
}


def int8_document(name: str, **changes: Any) -> dict[str, Any]:
    """A file like the published int8 ones for `name`, with random content."""
    rng = np.random.default_rng(0)
    layers = []
    for spec in NETWORKS[name].without_feature_mix().convolutions():
        params = {
            "weight": rng.integers(-127, 128, spec.weight_shape).astype(np.int8),
            "bias": rng.integers(-999, 999, spec.out_channels).astype(np.int32),
            "w_scales": rng.random(spec.out_channels).astype(np.float32) / 100,
            "x_scale": 0.02,
            "y_scale": 6 / 255,
            "x_zero": 0,
            "y_zero": -128,
        }
        layers.append({"params": params, "name": spec.name})
    stages = {"expand": "pointwise1", "depthwise": "depthwise", "project": "pointwise2"}
    blocks: list[dict[str, Any]] = []
    for layer in layers[1:]:
        _, index, stage = str(layer["name"]).split(".")
        if int(index) == len(blocks):
            blocks.append(dict.fromkeys(stages.values()))
        blocks[-1][stages[stage]] = layer
    document = {"first_conv": layers[0], "blocks": blocks, "feature_mix": None, "classifier": {}}
    return document | changes


def write_int8(path: Path, document: object) -> Path:
    """The way torch.save writes a document of numpy arrays."""
    torch.save(document, path, pickle_protocol=2)
    return path
