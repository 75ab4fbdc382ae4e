"""Other people's networks as they come: what is traced, and whether gradients and MACs are right.

Models of images and of tokens out of Hugging Face's transformers, by the objects that people have,
made small and with random weights, so that nothing is loaded. Of each, as `costsim.make_plan` and
`costsim.sparsify` take it:

- MACs of the forward pass, against torch's own count (`FlopCounterMode`);
- gradients of every parameter, by the executor in float64, against autograd through the model: the
  largest difference over the largest gradient of that parameter;
- what is taken apart or left out, which is told.

    python benchmarks/models.py [NAME...] [--write docs/models.md]      (or: make zoo)
"""

import argparse
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.models.outputs import one_output
from costsim.models.tokens import taking_tokens
from costsim.models.tracing.capture import Traced, capture
from costsim.run.execution.executor import Executor

SIDE = 64
BATCH = 2
HEAD = "<!-- written by make zoo -->"

SMALL: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "intermediate_size": 64, "patch_size": 16}),
    "DeiT": ("DeiT", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "intermediate_size": 64, "patch_size": 16}),
    "BEiT": ("Beit", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "intermediate_size": 64, "patch_size": 16,
                      "use_relative_position_bias": True}),
    "DINOv2": ("Dinov2", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "patch_size": 16}),
    "Swin": ("Swin", {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}),
    "Swin v2": ("Swinv2", {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
                           "window_size": 4}),
    "MobileViT": ("MobileViT", {"hidden_sizes": [32, 48, 64],
                                "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 80]}),
    "MobileViT v2": ("MobileViTV2", {"width_multiplier": 0.25}),
    "LeViT": ("Levit", {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4],
                        "depths": [1, 1, 1], "key_dim": [8, 8, 8]}),
    "PVT v2": ("PvtV2", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                         "num_attention_heads": [1, 2, 3, 4]}),
    "SegFormer": ("Segformer", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "PoolFormer": ("PoolFormer", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "FocalNet": ("FocalNet", {"embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
                              "focal_windows": [3, 3]}),
    "ResNet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "RegNet": ("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                          "groups_width": 4}),
    "BiT": ("Bit", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                    "num_groups": 4, "layer_type": "preactivation"}),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "ConvNeXt v2": ("ConvNextV2", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "EfficientNet": ("EfficientNet", {"width_coefficient": 0.25, "depth_coefficient": 0.3,
                                      "hidden_dim": 320}),
    "MobileNet v1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "MobileNet v2": ("MobileNetV2", {"depth_multiplier": 0.25}),
}  # fmt: skip
"""What each is called in transformers, and what makes it small."""

VOCABULARY = 100
LENGTH = 16

_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64}  # fmt: skip
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 8}

OF_TOKENS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertConfig", "BertModel", _ENCODER),
    "DistilBERT": ("DistilBertConfig", "DistilBertModel",
                   {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "ELECTRA": ("ElectraConfig", "ElectraModel", {**_ENCODER, "embedding_size": 16}),
    "ALBERT": ("AlbertConfig", "AlbertModel", {**_ENCODER, "embedding_size": 16}),
    "ModernBERT": ("ModernBertConfig", "ModernBertModel", {**_ENCODER, "pad_token_id": 0}),
    "T5 encoder": ("T5Config", "T5EncoderModel",
                   {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}),
    "GPT-2": ("GPT2Config", "GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "Llama": ("LlamaConfig", "LlamaModel", _DECODER),
    "Qwen2": ("Qwen2Config", "Qwen2Model", _DECODER),
    "Qwen3": ("Qwen3Config", "Qwen3Model", _DECODER),
    "Gemma": ("GemmaConfig", "GemmaModel", _DECODER),
}  # fmt: skip
"""Likewise, of models that take tokens: configuration and class."""


NAMES = (*SMALL, *OF_TOKENS)


def main() -> int:
    """Print a row for each; exit status 1 where a gradient or a count is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this page")
    options = parser.parse_args()
    rows, well = ["| model | layers | MACs of a pass | as torch counts | gradients | seconds |",
                  "|---|---:|---:|---|---:|---:|"], True  # fmt: skip
    print("\n".join(rows))
    for name in options.names or NAMES:
        began = time.process_time()
        try:
            right, cells = _looked_at(name)
        except Exception as error:
            right, cells = False, f"**refused**: {' '.join(str(error).split())[:160]} | | | "
        well = well and right
        rows.append(f"| {name} | {cells} | {time.process_time() - began:.0f} |")
        print(rows[-1], flush=True)
    if options.write is not None:
        text = options.write.read_text()
        options.write.write_text(text[: text.index(HEAD)] + HEAD + "\n\n" + "\n".join(rows) + "\n")
    return 0 if well else 1


def _looked_at(name: str) -> tuple[bool, str]:
    """Whether all is right, and the cells of its row."""
    with (
        patch.object(functional, "softmax", _softmax),
        patch.object(Tensor, "to", _to),
        patch.object(Tensor, "float", lambda x: _to(x, torch.float32)),
    ):
        return _compared(made(name), example(name))


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:  # noqa: ARG001
    """In 64 bits throughout: libraries round scores to 32 on the way."""
    return torch.softmax(x, dim)


_plain_to = Tensor.to


def _to(x: Tensor, *to: Any, **more: Any) -> Tensor:
    """Likewise norms: what has 64 bits keeps them."""
    wider = x.dtype == torch.float64 and torch.float32 in (*to, *more.values())
    return x if wider else _plain_to(x, *to, **more)


def example(name: str) -> Tensor:
    """What a model takes."""
    if name in OF_TOKENS:
        return torch.randint(VOCABULARY, (BATCH, LENGTH), dtype=torch.int64).double()
    return torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64)


def _compared(model: nn.Module, x: Tensor) -> tuple[bool, str]:
    traced = capture(model, x)
    counted = torchs_macs(model, x)
    error = gradient_error(model, traced, x)
    same = traced.graph.forward_macs() == counted
    told = "yes" if same else f"no, {counted:,}"
    cells = f"{len(traced.graph.layers)} | {traced.graph.forward_macs():,} | {told} | {error:.1e}"
    return same and error < 1e-9, cells


def made(name: str) -> nn.Module:
    """A model as its library makes it, in float64, that returns its logits alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        if name in OF_TOKENS:
            config_class, model_class, small = OF_TOKENS[name]
            sizes = {"vocab_size": VOCABULARY, **small}
            torch.manual_seed(0)
            make = getattr(transformers, model_class)
            # The pooler's output is another than the one that is taken.
            pooled = "add_pooling_layer" in inspect.signature(make).parameters
            more = {"add_pooling_layer": False} if pooled else {}
            model = make(getattr(transformers, config_class)(**sizes), **more).eval().double()
            return one_output(taking_tokens(model), example(name))
        kind, small = SMALL[name]
        config = getattr(transformers, f"{kind}Config")(**{"num_labels": 5, **small})
        if hasattr(config, "image_size"):
            config.image_size = SIDE
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForImageClassification")(config).eval().double()
        for part in model.modules():  # not the identity that a batch norm begins as
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                assert part.running_mean is not None
                part.running_mean.normal_(0, 0.1)
        return one_output(model, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))


def torchs_macs(model: nn.Module, x: Tensor) -> int:
    """Half of the floating-point operations that torch counts; fused attention would hide its."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    return int(counter.get_total_flops()) // 2


def gradient_error(model: nn.Module, traced: Traced, x: Tensor) -> float:
    """The largest difference of a gradient from autograd's, over the largest of its parameter."""
    graph = traced.graph
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(BATCH, update="deferred"))
    executor = Executor(program, traced.tensors)
    state = executor.begin()
    output = executor.forward(state, x)
    executor.backward(state, 2 * output.detach())
    found = executor.gradients(state)
    parameters = dict(model.named_parameters())
    wanted = dict(
        zip(
            parameters,
            torch.autograd.grad(
                model(x).square().sum(), list(parameters.values()), allow_unused=True
            ),
            strict=True,
        )
    )
    # What comes after the largest gradient by so much is a difference of sums that cancel.
    scale = max(float(one.abs().max()) for one in wanted.values() if one is not None)
    worst = 0.0
    for atom, selection in executor.selections.items():
        layer = graph.layers[atom[1]]
        parameter = layer.bias if atom[0] == "bias" else layer.weight
        assert parameter is not None
        expected = selection.read(as_viewed(parameter.name, wanted))
        difference = float((found[atom] - expected).abs().max())
        worst = max(worst, difference / max(float(expected.abs().max()), 1e-6 * scale))
    return worst


def as_viewed(name: str, gradients: Mapping[str, Tensor | None]) -> Tensor:
    """The gradient of a tensor of a layer graph: of a parameter, or of a part or its transpose."""
    whole, bracket, rest = name.partition("[")
    gradient = gradients[whole.removesuffix(".T")]
    assert gradient is not None, name
    steps: list[Callable[[Tensor], Tensor]] = []
    if whole.endswith(".T"):
        steps.append(lambda g: g.transpose(0, 1))
    if bracket:
        span, _, behind = rest.partition("]")
        start, stop = map(int, span.split(":"))
        steps.append(lambda g: g[start:stop])
        if behind == ".T":
            steps.append(lambda g: g.transpose(0, 1))
    for step in steps:
        gradient = step(gradient)
    return gradient


if __name__ == "__main__":
    sys.exit(main())
