"""The built-in networks: the counts their papers give, good initialisation, and folding."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.ir.graph import LayerGraph
from costsim.models.networks import NETWORKS, find_architecture
from costsim.models.networks.architectures import Architecture
from costsim.models.networks.build import (
    Network,
    build,
    calibrate,
    drawn,
    fold,
    synthetic_images,
)
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing.capture import capture

ALL = list(NETWORKS)


def images(count: int, architecture: Architecture, seed: int = 1) -> torch.Tensor:
    return synthetic_images(count, architecture.resolution, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "macs", "macs_without_mix"),
    [
        ("mcunet-5fps", 22.45e6, 22.45e6),
        ("mbv2-w0.35", 17.45e6, 16.65e6),
        ("proxyless-w0.3", 19.21e6, 18.62e6),
    ],
)
def test_forward_macs_are_the_papers(name: str, macs: float, macs_without_mix: float) -> None:
    architecture = NETWORKS[name]
    rounding = 0.005e6
    assert abs(architecture_graph(name).forward_macs() - macs) <= rounding
    without = architecture_graph(architecture.without_feature_mix())
    assert abs(without.forward_macs() - macs_without_mix) <= rounding


def test_feature_mix_is_one_pointwise_convolution() -> None:
    for name, (channels, features) in {
        "mbv2-w0.35": (112, 448),
        "proxyless-w0.3": (96, 384),
    }.items():
        whole = architecture_graph(name)
        without = architecture_graph(NETWORKS[name].without_feature_mix())
        side = NETWORKS[name].resolution // 32
        assert whole.forward_macs() - without.forward_macs() == channels * features * side**2
        assert without[without.output].shape == (1, channels)


def numbered(graph: LayerGraph) -> list[tuple[Any, ...]]:
    """The calls with values named by position: equal for graphs equal up to the names of calls."""
    position = {call.name: index for index, call in enumerate(graph.calls)}
    return [
        (
            call.operator,
            tuple(position[name] for name in call.inputs),
            call.shape,
            call.layer,
            call.weight,
            call.bias,
            call.buffers,
        )
        for call in graph.calls
    ]


@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [
        ("mcunet-5fps", False),
        ("mcunet-5fps", True),
        pytest.param("mbv2-w0.35", True, marks=pytest.mark.slow),
        ("proxyless-w0.3", False),
        ("mcunet-320kb-1mb", False),
    ],
)
def test_graph_from_rows_is_the_traced_graph(name: str, batch_norm: bool) -> None:
    side = NETWORKS[name].resolution
    network = Network(NETWORKS[name], batch_norm=batch_norm).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    traced = capture(network, torch.zeros(2, 3, side, side)).graph
    assert numbered(architecture_graph(name, batch=2, batch_norm=batch_norm)) == numbered(traced)


@pytest.mark.parametrize("name", ALL)
def test_initialised_features_are_of_order_one_and_tell_images_apart(name: str) -> None:
    network = build(name)
    active = []
    for spec, convolution, _ in network.convolutions():
        if spec.activation:
            convolution.register_forward_hook(
                lambda _module, _inputs, output: active.append(
                    ((output > 0) & (output < 6)).float().mean().item()
                )
            )
    with torch.no_grad():
        features = network(images(8, NETWORKS[name]))
    assert features.shape == (8, NETWORKS[name].features)
    assert 0.2 < features.square().mean().sqrt() < 5
    assert features.std(0).mean() > 0.1
    assert min(active) > 0.3
    assert max(active) < 0.7


def test_gradients_reach_the_first_layer() -> None:
    network = build("proxyless-w0.3")
    network(images(4, NETWORKS["proxyless-w0.3"])).square().sum().backward()
    norms = [convolution.weight.grad.norm() for _, convolution, _ in network.convolutions()]
    assert 1e-3 < norms[0] / norms[-1] < 1e3


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    first = build("mcunet-5fps", seed=3)
    drawn.cache_clear()
    again, other = (build("mcunet-5fps", seed=seed) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(first.stem.weight, other.stem.weight)
    assert not first.training


def test_a_network_that_was_trained_is_not_the_next_one() -> None:
    first = build("mcunet-5fps")
    with torch.no_grad():
        first.stem.weight.zero_()
    first.stem.bias.requires_grad_(False)
    again = build("mcunet-5fps")
    assert again.stem.weight.any()
    assert not again.frozen


@pytest.mark.parametrize("name", ALL)
def test_fold_keeps_the_function(name: str) -> None:
    network = build(name, batch_norm=True).double()
    generator = torch.Generator().manual_seed(7)
    for _, _, norm in network.convolutions():
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(generator=generator)
    x = images(2, NETWORKS[name]).double()
    folded = fold(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_build_folded_is_fold_of_build() -> None:
    folded, again = build("mcunet-5fps"), fold(build("mcunet-5fps", batch_norm=True))
    for key, value in folded.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_fold_of_a_folded_network_is_a_copy() -> None:
    network = build("mcunet-5fps")
    copy = fold(network)
    assert torch.equal(copy.stem.weight, network.stem.weight)
    assert copy.stem.weight.data_ptr() != network.stem.weight.data_ptr()


def test_batch_norm_stays_frozen_in_training_mode() -> None:
    network = build("mcunet-5fps", batch_norm=True).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(images(2, NETWORKS["mcunet-5fps"]))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_calibrate_gives_each_channel_mean_zero_and_variance_one() -> None:
    architecture = replace(NETWORKS["mcunet-5fps"], norm_eps=1e-12)
    network = Network(architecture, batch_norm=True).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            nn.init.normal_(parameter, generator=generator)
    network, x = network.double(), images(4, architecture).double()
    calibrate(network, x)
    outputs = []
    network.blocks[5].project_norm.register_forward_hook(  # type: ignore[union-attr]
        lambda _module, _inputs, output: outputs.append(output)
    )
    with torch.no_grad():
        network(x)
    variance, mean = torch.var_mean(outputs[0], (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-9, atol=0)


def test_unknown_network_names_what_there_is() -> None:
    with pytest.raises(InputError, match=r"'resnet'.*mcunet-5fps, mbv2-w0\.35"):
        find_architecture("resnet")
    with pytest.raises(InputError, match="unknown"):
        build("resnet")


def test_models_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in NETWORKS)


def test_models_command_gives_one_json_document_without_torch() -> None:
    script = (
        "import json, sys, io, contextlib\n"
        "from costsim.cli import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n"
        "    status = main(['models', '--json'])\n"
        "rows = json.loads(out.getvalue())['models']\n"
        "assert status == 0 and 'torch' not in sys.modules\n"
        "print(*(row['name'] for row in rows))\n"
        "print(*(row['forward_macs'] for row in rows))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, macs = done.stdout.splitlines()
    assert names.split() == ALL
    assert [int(count) for count in macs.split()] == [
        architecture_graph(name).forward_macs() for name in ALL
    ]
