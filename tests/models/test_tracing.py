"""Tracing, against what PyTorch itself computes."""

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_default import by_default
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import OPERATORS, Clamp, Convolution, Linear, MatMul, Mean, Scale
from costsim.models.tracing import Traced, capture, capture_program, trace
from costsim.models.tracing.archive import load_program
from costsim.run.execution.forward import FORWARD, evaluate


def randomised(model: nn.Module) -> nn.Module:
    """Batch norm statistics and scales that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                assert module.running_mean is not None
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def images(batch: int = 2, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def exact_images() -> Tensor:
    """In float64, where no value is so near a bound that rounding decides on which side it is."""
    return images().double()


def check(model: nn.Module, x: Tensor) -> Traced:
    """Trace, evaluate, compare with the model; returns the trace."""
    traced = capture(model, x)
    with torch.no_grad():
        wanted = model(x)
        found, _ = evaluate(traced.graph, traced.tensors, x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert set(traced.tensors) == {parameter.name for parameter in traced.graph.parameters}
    return traced


class Calls(nn.Module):
    """A function of (module, x) as a network, with parameters and buffers given by name."""

    def __init__(
        self, function: Callable[[Any, Tensor], Any], parts: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.function = function
        for name, part in (parts or {}).items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@pytest.fixture(scope="module", params=ZOO)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Traced]:
    torch.manual_seed(0)
    model = randomised(ZOO[request.param]()).double()
    return model, check(model, exact_images())


def test_forward_covers_every_operator() -> None:
    assert FORWARD.keys() == set(OPERATORS) - {"input"}


def test_every_call_has_the_shape_its_activation_has(network: tuple[nn.Module, Traced]) -> None:
    _, traced = network
    names = [call.name for call in traced.graph.calls]
    _, values = evaluate(traced.graph, traced.tensors, exact_images(), keep=names)
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        call.name: call.shape for call in traced.graph.calls
    }


def test_layers_are_the_modules_of_the_model(network: tuple[nn.Module, Traced]) -> None:
    """The value of a layer's last call is what the module of that name last returned."""
    model, traced = network
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.detach().clone())
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm)
    ]
    model(exact_images())
    for handle in handles:
        handle.remove()
    kept = {layer.calls[-1]: name for name, layer in traced.graph.layers.items() if name in seen}
    _, values = evaluate(traced.graph, traced.tensors, exact_images(), keep=kept)
    assert kept.keys() == values.keys()
    for call, name in kept.items():
        torch.testing.assert_close(values[call], seen[name], rtol=1e-10, atol=1e-10)
    assert seen.keys() <= traced.graph.layers.keys()


def test_macs_are_half_of_torchs_flops(network: tuple[nn.Module, Traced]) -> None:
    model, traced = network
    plain = sdpa_kernel(SDPBackend.MATH)  # fused attention counts nothing
    with plain, FlopCounterMode(display=False) as counter:
        model(exact_images())
    assert traced.graph.forward_macs() == counter.get_total_flops() // 2


def test_gradients_flow_to_the_models_own_parameters(network: tuple[nn.Module, Traced]) -> None:
    model, traced = network
    parameters = dict(model.named_parameters())
    wanted = torch.autograd.grad(model(exact_images()).square().sum(), list(parameters.values()))
    output, _ = evaluate(traced.graph, traced.tensors, exact_images())
    found = torch.autograd.grad(output.square().sum(), list(parameters.values()))
    for name, a, b in zip(parameters, wanted, found, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10 * float(a.abs().max()), msg=name)


def test_tensors_are_the_models_own(network: tuple[nn.Module, Traced]) -> None:
    model, traced = network
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in traced.tensors.items():
        assert tensor is own[name]


def test_graph_survives_json(network: tuple[nn.Module, Traced]) -> None:
    _, traced = network
    document = json.loads(json.dumps(traced.graph.to_json(), allow_nan=False))
    assert LayerGraph.from_json(document) == traced.graph


def test_exported_file_gives_the_same_graph(
    network: tuple[nn.Module, Traced], tmp_path: Path
) -> None:
    model, traced = network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, (exact_images(),)), tmp_path / "model.pt2")
    again = capture_program(load_program(tmp_path / "model.pt2"))
    assert again.graph == traced.graph
    for name, tensor in traced.tensors.items():
        assert torch.equal(again.tensors[name], tensor)


def test_names_are_those_of_modules() -> None:
    names = [call.name for call in trace(ZOO["resnet18"](), images()).calls]
    first_block = ["conv1", "bn1", "relu", "conv2", "bn2", "add", "relu#2"]
    assert names[5:12] == [f"layer1.0.{name}" for name in first_block]
    assert names[-2:] == ["reshape", "fc"]
    layers = trace(ZOO["small_vit"](), images()).layers
    assert {"token", "position", "blocks.0.attn.in_proj", "blocks.0.attn.out_proj"} <= set(layers)


# Random networks.


@st.composite
def small_networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A chain of random layers with skips where shapes allow, then a head."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    channels = 3
    layers: list[nn.Module] = []
    activations: list[Callable[[], nn.Module]] = [
        nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Sigmoid,
        nn.Tanh, lambda: nn.LeakyReLU(0.2), lambda: nn.Hardtanh(-0.5, 0.5),
        lambda: nn.GELU("tanh"),
    ]  # fmt: skip
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "depthwise", "norm", "activation", "pool", "skip"]))
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            outputs = groups * draw(st.integers(1, 3))
            stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
            padding: Any = draw(st.sampled_from([0, 1, "valid"]))
            bias = draw(st.booleans())
            layers.append(nn.Conv2d(channels, outputs, 3, stride, padding, dilation, groups, bias))
            channels = outputs
        elif kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, 3, padding="same", groups=channels))
        elif kind == "norm":
            affine = draw(st.booleans())
            layers.append(
                nn.BatchNorm2d(channels, affine=affine)
                if draw(st.booleans())
                else nn.GroupNorm(1, channels, affine=affine)
            )
        elif kind == "activation":
            layers.append(draw(st.sampled_from(activations))())
        elif kind == "pool":
            ceil = draw(st.booleans())
            layers.append(
                draw(
                    st.sampled_from(
                        [
                            nn.MaxPool2d(3, 2, 1, ceil_mode=ceil),
                            nn.AvgPool2d(2, ceil_mode=ceil),
                            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                            nn.AdaptiveAvgPool2d((3, 2)),
                        ]
                    )
                )
            )
        elif kind == "skip":
            part = nn.Conv2d(channels, channels, 1)
            layers.append(Calls(lambda m, x: x + m.part(x), {"part": part}))
    head = draw(st.sampled_from(["mean", "flatten"]))
    pool = nn.AdaptiveAvgPool2d(1 if head == "mean" else 2)
    features = channels * (1 if head == "mean" else 4)
    model = nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(features, 3))
    return randomised(model), images(draw(st.integers(1, 2)), draw(st.sampled_from([29, 32])))


@given(small_networks())
@settings(max_examples=25)
def test_random_networks_evaluate_as_torch_does(drawn: tuple[nn.Module, Tensor]) -> None:
    model, x = drawn
    traced = check(model, x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    if not grouped:
        assert traced.graph.forward_macs() == counter.get_total_flops() // 2


# One operator at a time.

FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scalars": lambda _m, x: (2 * x + 1 - x / 4 - 0.5) * -1,
    "reversed": lambda _m, x: 1 - x,
    "alpha": lambda _m, x: torch.add(x, x.relu(), alpha=3) - torch.sub(x, x.tanh(), alpha=2),
    "clamps": lambda _m, x: x.clamp(min=-0.5).clamp(max=0.5) + x.clamp(-1, 1) + x.clamp_min(0.1),
    "relu6": lambda _m, x: F.relu6(x) + F.hardtanh(x),
    "in place": lambda _m, x: x.clone().mul_(2).add_(x).relu_(),
    "slices": lambda _m, x: x[:, 1:, ::2, -3:],
    "select": lambda _m, x: x[:, -1] + x.select(1, 0),
    "chunks": lambda _m, x: torch.cat(torch.chunk(x, 2, dim=2)[::-1], 2),
    "splits": lambda _m, x: torch.cat(torch.split(x, [10, 22], 3)[::-1], -1),
    "unbound": lambda _m, x: torch.stack(list(x.unbind(1))[::-1], 1),
    "flat": lambda _m, x: x.flatten(1).unsqueeze(0).squeeze(0).view(x.shape[0], -1, 8),
    "orders": lambda _m, x: x.permute(0, 2, 3, 1).transpose(1, 2).contiguous(),
    "shuffle": lambda _m, x: x.view(2, 3, 1, 32, 32).transpose(1, 2).reshape(2, 3, 32, 32),
    "expanded": lambda _m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4),
    "padded": lambda _m, x: F.pad(x, (1, 2, 3, 0), value=0.5),
    "means": lambda _m, x: x.mean(-1) + x.mean((1, 3)).unsqueeze(1),
    "softmax": lambda _m, x: x.softmax(-1) + F.softmax(x, dim=1),
    "log_softmax": lambda _m, x: x.log_softmax(-1) + F.log_softmax(x, dim=1) + nn.LogSoftmax(2)(x),
    "products": lambda _m, x: x @ x.transpose(-1, -2) + torch.matmul(x, x),
    "batched": lambda _m, x: torch.bmm(x[:, 0], x[:, 1]),
    "constant": lambda _m, x: x + torch.linspace(0, 1, 32) * torch.tensor(2.0) - torch.arange(32),
    "normalised": lambda m, x: (x - m.mean) / m.deviation,
    "scaled by a parameter": lambda m, x: x * m.gamma + m.gamma,
    "right product": lambda m, x: x @ m.w,
    "transposed product": lambda m, x: x @ m.w.t(),
    "addmm": lambda m, x: torch.addmm(m.b, x.flatten(0, 2), m.w),
    "part of a parameter": lambda m, x: x * m.gamma[0] + m.gamma[1:][:1] + m.w[:1] + m.w.t(),
    "functional": lambda m, x: F.linear(x, m.w, m.b),
    "attention": lambda _m, x: F.scaled_dot_product_attention(x, x, 2 * x),
    "causal attention": lambda _m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda _m, x: F.scaled_dot_product_attention(
        x, 2 * x, x, attn_mask=(torch.arange(32) % 3 > 0)[None]
    ),
    "biased attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.w),
    "grouped queries": lambda _m, x: F.scaled_dot_product_attention(
        torch.cat([x, 2 * x], 1), x, x, enable_gqa=True
    ),
    "places": lambda _m, x: x[:, :, [3, 0, 3, -1]] + x.index_select(2, torch.tensor([1, 2, 0, 5])),
    "two places": lambda _m, x: x[:, :, torch.tensor([[1], [-2]]), torch.tensor([4, 0, 9])],
    "table of positions": lambda m, x: x + m.w[torch.arange(32) % 7],
    "embedding": lambda m, x: x + F.embedding(torch.tensor([0, 3, 3, 1]).repeat(8), m.w),
    "repeated elements": lambda _m, x: x.repeat_interleave(2, 1) + x.repeat_interleave(2, dim=-3),
    "repeated everything": lambda _m, x: x.flatten().repeat_interleave(2),
    "tiles": lambda _m, x: torch.tile(x, (2, 1)),
    "many places": lambda _m, x: x.flatten(2).flip(-1),
    "moments": lambda _m, x: torch.stack([*torch.var_mean(x, 1), x.std(1)]),
    "extremes": lambda _m, x: torch.stack([x.amax((1, 3)), x.amin((1, 3))]) + x.max() - x.min(),
    "masked": lambda _m, x: (
        x.masked_fill(torch.eye(32) > 0, -2.0) + torch.where(torch.arange(32) > 4, x, 0.5)
    ),
    "larger and smaller": lambda m, x: torch.maximum(x, m.b) + torch.minimum(x, x.mean()),
    "log_sum_exp": lambda _m, x: torch.logsumexp(x, (1, 2)),
    "resized": lambda _m, x: (
        F.interpolate(x, scale_factor=1.3, mode="bilinear")
        + F.interpolate(x, (41, 41), mode="bicubic", align_corners=True)
    ),
    "resized to the same": lambda _m, x: F.interpolate(x, (32, 32), mode="bilinear"),
    "pixels, by no whole factor": lambda _m, x: (
        F.interpolate(x, scale_factor=0.6) + F.interpolate(x, (19, 19), mode="nearest-exact")
    ),
    "windows and back": lambda _m, x: F.fold(
        F.unfold(x, 3, stride=2, padding=1), (32, 32), 3, stride=2, padding=1
    ),
    "transposed convolutions": lambda m, x: (
        F.conv_transpose2d(x, m.up, m.b[:4], 2, 1)
        + F.conv_transpose2d(torch.cat([x, x], 1), m.by_group, m.b[4:8], 2, 1, groups=2)
        + F.conv_transpose2d(torch.cat([x, x[:, :1]], 1), m.each, None, 2, 1, groups=4)
    ),
    "computed weight": lambda m, x: F.conv2d(x, m.up.transpose(0, 1) * 2, m.b[:4], padding=1),
    "standardised weight": lambda m, x: F.conv2d(
        x,
        F.batch_norm(
            m.up.reshape(1, 3, -1), None, None, weight=m.b[:3] * 0.5, training=True, eps=1e-6
        )
        .reshape(m.up.shape)
        .transpose(0, 1),
    ),
    "computed linear": lambda m, x: F.linear(x, m.w / m.w.norm(dim=1, keepdim=True), m.b),
    "normed by its largest singular value": lambda m, x: x @ (m.w / torch.dot(m.b, m.w.mv(m.b))),
    "sliding windows": lambda _m, x: x.unfold(2, 5, 3).unfold(-2, 4, 4),
    "dtype": lambda _m, x: x.to(torch.float32).float(),
    "one dimension": lambda m, x: F.avg_pool1d(F.conv1d(x.flatten(2), m.kernel), 2),
    "three dimensions": lambda m, x: F.max_pool3d(F.conv3d(x.unsqueeze(1), m.cube), 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators(name: str) -> None:
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    parts = {
        "mean": random(3, 1, 1),
        "deviation": random(3, 1, 1).exp(),
        "gamma": nn.Parameter(random(3, 1, 1)),
        "w": nn.Parameter(random(32, 32) / 6),
        "b": nn.Parameter(random(32)),
        "kernel": nn.Parameter(random(4, 3, 5) / 4),
        "up": nn.Parameter(random(3, 4, 4, 4) / 7),
        "by_group": nn.Parameter(random(6, 2, 4, 4) / 7),
        "each": nn.Parameter(random(4, 1, 4, 4) / 4),
        "cube": nn.Parameter(random(2, 1, 2, 3, 3) / 4),
    }
    check(Calls(FUNCTIONS[name], parts), images())


def test_padding_same_with_an_even_kernel() -> None:
    model = nn.Conv2d(3, 4, 4, padding="same").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it copies the input, as we do
        traced = check(model, images())
    assert [call.operator.kind for call in traced.graph.calls] == ["input", "pad", "convolution"]
    assert traced.graph.calls[1].operator.padding == ((0, 0), (0, 0), (1, 2), (1, 2))  # type: ignore[attr-defined]


def test_reused_module_is_one_layer_with_two_calls() -> None:
    model = Calls(lambda m, x: m.conv(m.conv(x)), {"conv": nn.Conv2d(3, 3, 3, padding=1)})
    graph = check(model, images()).graph
    assert list(graph.layers) == ["conv"]
    assert graph.layers["conv"].calls == ("conv", "conv#2")
    assert graph.layers["conv"].weight is not None
    assert [parameter.name for parameter in graph.parameters] == ["conv.weight", "conv.bias"]


def test_tied_weights_are_one_layer() -> None:
    first, second = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
    second.weight = first.weight
    model = Calls(lambda m, x: m.second(m.first(x)), {"first": first, "second": second})
    graph = check(model, images()).graph
    assert graph.layers["first"].calls == ("first", "first#2")
    assert list(graph.layers) == ["first"]


def test_right_product_is_a_linear_layer_on_the_transposed_weight() -> None:
    model = Calls(lambda m, x: x @ m.w, {"w": nn.Parameter(torch.randn(32, 5))})
    traced = check(model, images())
    call = traced.graph["w"]
    assert call.operator == Linear()
    assert call.weight is not None
    assert (call.weight.name, call.weight.shape, call.layer) == ("w.T", (5, 32), "w")
    with torch.no_grad():
        traced.tensors["w.T"].zero_()
    assert not model.get_parameter("w").any()


def test_gradient_at_the_bounds_is_that_of_the_function() -> None:
    graph = trace(Calls(lambda _m, x: F.relu6(x) + x.clamp(0, 6)), images())
    clamps = [call.operator for call in graph.calls if isinstance(call.operator, Clamp)]
    assert clamps == [Clamp(0.0, 6.0, False), Clamp(0.0, 6.0, True)]


def test_pooling_to_one_pixel_is_a_mean() -> None:
    graph = trace(nn.AdaptiveAvgPool2d(1).eval(), images())
    assert graph.calls[-1].operator == Mean((2, 3), keep_dimensions=True)


def test_attention_scale_and_transpose_are_in_the_product() -> None:
    graph = trace(Calls(lambda _m, x: F.scaled_dot_product_attention(x, x, x)), images())
    assert graph.calls[1].operator == MatMul(transpose_b=True, scale=1 / math.sqrt(32))


def test_attention_that_returns_its_weights_and_frozen_attention_trace() -> None:
    parts = {
        "attention": nn.MultiheadAttention(32, 4, batch_first=True),
        "layer": nn.TransformerEncoderLayer(32, 2, 8, batch_first=True),
    }

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x[:, 0]
        return m.layer(m.attention(x, x, x)[0])

    graph = check(Calls(forward, parts).requires_grad_(False), images()).graph
    assert {"attention.in_proj", "attention.out_proj", "layer.linear1"} <= set(graph.layers)


def test_attention_on_other_keys_has_a_layer_for_each_part_of_its_projection() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        keys = x[:, 1]
        return m.attention(x[:, 0], keys, keys, need_weights=False)[0]

    model = Calls(forward, {"attention": nn.MultiheadAttention(32, 4, batch_first=True)})
    traced = check(model, images())
    layers = traced.graph.layers
    assert list(layers)[:2] == ["attention.in_proj[0:32]", "attention.in_proj[32:96]"]
    with torch.no_grad():
        traced.tensors["attention.in_proj_weight[32:96]"].zero_()
    assert not model.get_parameter("attention.in_proj_weight")[32:].any()


def test_dead_code_is_left_out() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.unused(x).sum()
        return x.relu()

    graph = trace(Calls(forward, {"unused": nn.Conv2d(3, 3, 1)}), images())
    assert [call.operator.kind for call in graph.calls] == ["input", "relu"]


def test_constants_fold() -> None:
    graph = trace(Calls(lambda _m, x: x * torch.tensor(2.0)), images())
    assert graph.calls[-1].operator == Scale(factor=2.0)
    graph = trace(Calls(lambda _m, x: x + torch.arange(32).float().sqrt()), images())
    assert [call.operator.kind for call in graph.calls] == ["input", "constant", "add"]


def test_constants_fold_however_they_lie() -> None:
    check(
        Calls(lambda _m, x: x + torch.arange(96.0).view(3, 32).t().contiguous().view(3, 1, 32)),
        images(),
    )


def test_buffers_as_weights_belong_to_no_layer() -> None:
    blur = torch.ones(3, 1, 3, 3) / 9
    traced = check(Calls(lambda m, x: F.conv2d(x, m.blur, groups=3), {"blur": blur}), images())
    assert traced.graph.layers == {}
    assert traced.graph["blur"].operator == Convolution((1, 1), (0, 0), (1, 1), 3)


# What cannot be traced.

UNSUPPORTED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "nobody's operator": (lambda m, x: m.inner(x), "aten.cumsum.default in module 'inner'"),
    "at the root": (lambda _m, x: x.cumsum(1), "aten.cumsum.default in the model itself"),
    "computed condition": (lambda _m, x: torch.where(x > 0, x, 2 * x), "aten.gt.Scalar"),
    "computed places": (lambda _m, x: x[:, x.argmax(1)[0, 0] % 3], "aten.argmax.default"),
    "places by a mask": (
        lambda _m, x: x[:, :, torch.eye(32) > 0],
        "with a mask for an index",
    ),
    "places apart": (
        lambda _m, x: x[torch.arange(2), :, torch.arange(2)],
        "do not follow one another",
    ),
    "variance of one": (lambda _m, x: x[:, :1].var(1), "of 1 elements with a correction of 1"),
    "computed statistics": (
        lambda _m, x: F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))),
        "statistics that is computed",
    ),
    "statistics of the one sample that it was traced with": (
        lambda _m, x: F.batch_norm(x[:1], None, None, training=True),
        "without statistics of its own",
    ),
    "a row that sees nothing": (
        lambda _m, x: F.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.arange(32)[:, None] * torch.ones(32) > 0
        ),
        "with a mask that lets a row see nothing",
    ),
    "a row that sees nothing, added": (
        lambda _m, x: F.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.full((32, 32), -torch.inf)
        ),
        "with a mask that lets a row see nothing",
    ),
    "statistics of a batch": (
        lambda _m, x: F.batch_norm(x, None, None, training=True),
        "without statistics of its own",
    ),
    "mode": (
        lambda _m, x: F.interpolate(x, scale_factor=2, mode="bilinear", antialias=True),
        "upsample_bilinear2d_aa",
    ),
    "other type": (lambda _m, x: x.double(), "torch.float64"),
    "whole numbers": (lambda _m, x: x.long().float(), "torch.int64"),
    "random": (lambda _m, x: x + torch.rand(32), "aten.rand"),
}


@pytest.mark.parametrize("name", by_default(UNSUPPORTED, UNSUPPORTED.keys() - {"places by a mask"}))
def test_unsupported_operators_are_named_with_their_module(name: str) -> None:
    function, message = UNSUPPORTED[name]
    parts = {
        "inner": Calls(lambda _m, x: x.cumsum(1)),
        "w": nn.Parameter(torch.randn(3, 3, 1, 1)),
    }
    with pytest.raises(UnsupportedOperator) as caught:
        capture(Calls(function, parts), images())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def data_dependent(_: Any, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


BAD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tuple": (lambda: Calls(lambda _m, x: (x, x)), "returns a tuple; one tensor is needed"),
    "dict": (lambda: Calls(lambda _m, x: {"y": x}), "returns a dict"),
    "one in a list": (lambda: Calls(lambda _m, x: [x.relu()]), "returns a list"),
    "number": (lambda: Calls(lambda _m, _x: 1.0), "returns no tensor"),
    "integers": (lambda: Calls(lambda _m, x: x.argmax(1)), "floating point is needed"),
    "two inputs": (lambda: TwoInputs().eval(), "must take one tensor"),
    "constant": (lambda: Calls(lambda m, _x: m.p, {"p": nn.Parameter(torch.ones(2))}), "depend"),
    "data": (lambda: Calls(data_dependent), "cannot be traced"),
    "shape": (lambda: nn.Linear(5, 5).eval(), "(2, 3, 32, 32)"),
}


@pytest.mark.parametrize("name", BAD)
def test_models_that_cannot_be_used(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[name]
    with pytest.raises(InputError) as caught:
        capture(make(), images())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_training_mode_is_refused() -> None:
    model = ZOO["tiny"]()
    model.pool.train()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="module 'pool' is in training mode"):
        capture(model, images())
    trained = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(trained, (images(),))
    with pytest.raises(InputError, match=r"changes its buffer .* model.eval"):
        capture_program(program)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = ZOO["tiny"]()
    with torch.no_grad():
        model.get_parameter("left.bias")[1] = value
    with pytest.raises(InputError, match=r"'left.bias' has values that are not finite"):
        capture(model, images())


def test_evaluate_says_what_does_not_fit() -> None:
    traced = capture(ZOO["tiny"](), images())
    with pytest.raises(InputError, match="was traced for"):
        evaluate(traced.graph, traced.tensors, images(batch=3))
    with pytest.raises(InputError, match="'nowhere' is not in the layer graph"):
        evaluate(traced.graph, traced.tensors, images(), keep=["nowhere"])
    with pytest.raises(InputError, match=r"'stem.weight' of the layer graph is missing"):
        evaluate(traced.graph, {}, images())


def test_tracing_leaves_global_settings_alone() -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.no_grad():
        trace(ZOO["tiny"](), images())
        assert not torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


# Files of exported programs.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(ZOO["tiny"](), (images(),)), path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of the archive whose records went through `change` (by name within the archive)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return target


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_rewritten_archive_is_read(exported: Path, tmp_path: Path) -> None:
    """The forgeries below fail for what they forge, not for how they are written."""
    load_program(rewritten(exported, tmp_path / "same.pt2", lambda _, data: data))


def test_pickled_sample_inputs_do_not_run(exported: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(((Touch(mark),), {}), buffer)
    bad = rewritten(
        exported,
        tmp_path / "bad.pt2",
        lambda name, data: buffer.getvalue() if name == "data/sample_inputs/model.pt" else data,
    )
    with pytest.raises(InputError, match="holds more than tensors"):
        load_program(bad)
    assert not mark.exists()


def test_pickled_weights_do_not_run(exported: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Touch(mark), buffer)

    def change(name: str, data: bytes) -> bytes:
        if name == "data/weights/weight_0":
            return buffer.getvalue()
        if name == "data/weights/model_weights_config.json":
            config = json.loads(data)
            for payload in config["config"].values():
                payload["use_pickle"] = True
            return json.dumps(config).encode()
        return data

    with pytest.raises(InputError, match="is a pickled object"):
        load_program(rewritten(exported, tmp_path / "bad.pt2", change))
    assert not mark.exists()


def with_program(exported: Path, target: Path, change: Callable[[Any], None]) -> Path:
    def apply(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return rewritten(exported, target, apply)


def set_target(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def set_expression(document: Any) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": "__import__('os')"}}


def set_name(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["name"] = "x): import os\n#"


def set_structure(document: Any) -> None:
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = signature["out_spec"].replace("null", '"collections.defaultdict"', 1)


def set_guards(document: Any) -> None:
    document["guards_code"] = ["print(1)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_target, "'torch.os.system'; only operators of torch.ops.aten are read"),
        (set_expression, "has dynamic sizes"),
        (set_name, "is not a word"),
        (set_structure, "passes a collections.defaultdict"),
        (set_guards, "guards written in Python"),
    ],
)
def test_forged_programs_are_refused(
    exported: Path, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        load_program(with_program(exported, tmp_path / "bad.pt2", change))


def test_dynamic_programs_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            ZOO["tiny"](), (images(),), dynamic_shapes=({0: torch.export.Dim("n", min=2)},)
        )
        torch.export.save(program, tmp_path / "dynamic.pt2")
    with pytest.raises(InputError, match="export it without dynamic_shapes"):
        load_program(tmp_path / "dynamic.pt2")
    with pytest.raises(InputError, match="export it without dynamic_shapes"):
        capture_program(program)


NO_ARCHIVE, DAMAGED = r"is not a \.pt2 archive", r"is a \.pt2 archive that is damaged or cut short"


@pytest.mark.parametrize(
    ("keep", "told"), [(0, NO_ARCHIVE), (3, DAMAGED), (100, DAMAGED), (-200, NO_ARCHIVE)]
)
def test_damaged_files_are_refused(
    exported: Path, tmp_path: Path, keep: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.pt2").write_bytes(exported.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"cut\.pt2: {told}"):
        load_program(tmp_path / "cut.pt2")
    assert capfd.readouterr() == ("", "")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt2: cannot be read: No such file"):
        load_program(tmp_path / "none.pt2")
