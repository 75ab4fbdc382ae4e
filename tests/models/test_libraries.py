"""Models of the libraries that people use, by the object that they have; weights are random."""

import warnings

import pytest
import torch
from torch import nn

import costsim
from costsim.base.errors import Note
from costsim.models.loading import load_given
from costsim.models.tracing import capture
from costsim.planning import BudgetRequest
from costsim.run.execution.forward import evaluate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip(
        "transformers", reason="the extra costsim[zoo] is not installed", exc_type=ImportError
    )


def vit() -> nn.Module:
    """A small vision transformer as `from_pretrained` would give it, weights drawn."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    model: nn.Module = transformers.ViTForImageClassification(config).eval()
    return model


def test_a_vision_transformer_of_hugging_face_is_planned_and_trained_as_it_comes() -> None:
    model = vit()
    with pytest.warns(Note, match=r"a ImageClassifierOutput: its 'logits' is taken"):
        planned = costsim.make_plan(
            model=model,
            device="jetson-nano",
            ways=5,
            loss="cross_entropy",
            budget=BudgetRequest(macs_share=0.6),
        )
    assert planned.file.model.resolution == 32
    assert planned.file.plan.subsets
    assert model.config._attn_implementation == "sdpa", "left as it was"  # type: ignore[union-attr]
    with pytest.warns(Note, match="logits"):
        net = costsim.sparsify(model, planned.file)
    x = torch.rand(1, 3, 32, 32)
    output = net(x)
    assert torch.allclose(output, model(x).logits, atol=1e-5)
    output.square().sum().backward()
    model(x).logits.square().sum().backward()
    for subset in planned.file.plan.subsets:
        weight = model.get_parameter(f"{subset.layer}.weight").grad
        part = net.selected.get_parameter(f"{subset.layer}.weight").grad
        assert torch.allclose(part, weight[list(subset.channels)], rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore::costsim.base.errors.Note")
def test_a_residual_network_of_hugging_face_is_folded() -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    loaded = load_given(model, resolution=32, fold=True)
    assert len(loaded.folded.pairs) == sum(
        isinstance(part, nn.BatchNorm2d) for part in model.modules()
    )
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(loaded.module(x), model(x).logits, atol=1e-5)
    operators = {type(call.operator).__name__ for call in capture(loaded.module, x).graph.calls}
    assert "BatchNorm" not in operators


@pytest.mark.filterwarnings("ignore::costsim.base.errors.Note")
@pytest.mark.parametrize("kind", ["Bert", "Qwen2"])
def test_a_model_of_tokens_as_it_comes(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=8,
        max_position_embeddings=12,
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    loaded = load_given(model, batch=2)
    assert loaded.example_input.shape == (2, 12)
    traced = capture(loaded.module, loaded.example_input)
    output, _ = evaluate(traced.graph, traced.tensors, loaded.example_input)
    wanted = model(loaded.example_input.long()).last_hidden_state
    assert torch.allclose(output, wanted, atol=1e-5)
