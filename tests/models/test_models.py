"""Loading models by what a person types: built-in, factory, exported file."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from zoo import tiny

from costsim.base.errors import InputError
from costsim.learning.training.backbone import load_backbone
from costsim.models.inputs import DEFAULT_RESOLUTION
from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS
from costsim.models.networks.shipped import RANDOM, shipped_weights
from costsim.models.tracing import capture, trace

FACTORIES = """
import torch
from torch import nn

def small(resolution=48):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *head)

def plain():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Sized(nn.Module):
    resolution = 40
    def forward(self, x):
        return x.mean((2, 3))

class Grey(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.input_shape = shape

    def forward(self, x):
        return x.mean((2, 3))

def wide():
    return Grey(1, 20, 30)

def square():
    return Grey(1, 28, 28)

def empty():
    return Grey(0, 28, 28)

def wave():
    return Grey(1, 16000)

def broken():
    raise RuntimeError("no such layer\\nand more")

def nothing():
    return 3

constant = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the current folder; its name."""
    name = f"factories_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.pt2"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(tiny(), (torch.zeros(2, 3, 32, 32),))
        torch.export.save(program, path)
    return path


def test_this_file_imports_no_torch() -> None:
    code = "import sys, costsim.models.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_built_in_networks_trace_to_the_graph_of_their_rows(name: str) -> None:
    loaded = load_model(name, batch=2)
    side = NETWORKS[name].resolution
    assert loaded.example_input.shape == (2, 3, side, side)
    if shipped_weights(name) is None:
        assert loaded.provenance == "initialised from seed 0 (no pretrained weights)"
    graph = trace(loaded.module, loaded.example_input)
    assert graph[graph.output].shape == (2, NETWORKS[name].features)
    from costsim.models.networks.graph import architecture_graph

    rows = architecture_graph(NETWORKS[name])
    assert graph.forward_macs() == 2 * rows.forward_macs() // rows.batch
    assert {n: x.weight for n, x in graph.layers.items()} == {
        n: x.weight for n, x in rows.layers.items()
    }


def test_seed_decides_the_weights() -> None:
    first, again, other = (
        load_model("mcunet-5fps", weights=RANDOM, seed=s).module for s in (1, 1, 2)
    )
    key = "blocks.0.depthwise.weight"
    assert torch.equal(first.get_parameter(key), again.get_parameter(key))
    assert not torch.equal(first.get_parameter(key), other.get_parameter(key))


def test_built_in_network_with_published_weights(shared: Path) -> None:
    files = sorted((shared / "weights").glob("**/*mcunet-5fps*"))
    files = [file for file in files if file.suffix in (".pkl", ".pth", ".pt", ".safetensors")]
    if not files:
        pytest.skip("no weights of mcunet-5fps in the development data")
    loaded = load_model("mcunet-5fps", weights=files[0])
    assert files[0].name in loaded.provenance
    assert capture(loaded.module, loaded.example_input).graph.forward_macs() > 22e6


def test_factory_is_found_in_the_current_folder(factories: str) -> None:
    before = list(sys.path)
    loaded = load_model(f"{factories}:small", batch=3, seed=5)
    assert loaded.name == "small"
    assert loaded.example_input.shape == (3, 3, 48, 48)
    assert loaded.provenance == f"as {factories}:small made it, seed 5"
    assert not loaded.module.training
    assert sys.path == before
    again = load_model(f"{factories}:small", seed=5).module.state_dict()
    assert torch.equal(loaded.module.state_dict()["0.weight"], again["0.weight"])
    assert trace(loaded.module, loaded.example_input).batch == 3


def test_factory_leaves_the_random_state_alone(factories: str) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    load_model(f"{factories}:small", seed=5)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(
    ("factory", "resolution", "side"),
    [
        ("small", None, 48),
        ("small", 64, 64),
        ("plain", None, DEFAULT_RESOLUTION),
        ("plain", 20, 20),
        ("Sized", None, 40),
        ("Sized", 30, 30),
    ],
)
def test_resolution(factories: str, factory: str, resolution: int | None, side: int) -> None:
    loaded = load_model(f"{factories}:{factory}", resolution=resolution)
    assert loaded.example_input.shape == (1, 3, side, side)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped"])
def test_weights_for_a_factory(factories: str, tmp_path: Path, kind: str) -> None:
    spec = f"{factories}:small"
    state = load_model(spec, seed=9).module.state_dict()
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "wrapped" else state, path)
    loaded = load_model(spec, weights=path, seed=1)
    assert torch.equal(loaded.module.state_dict()["0.weight"], state["0.weight"])
    assert loaded.provenance == f"weights from {path.name}"


def test_weights_that_do_not_fit_are_named(factories: str, tmp_path: Path) -> None:
    spec, path = f"{factories}:small", tmp_path / "weights.pt"
    state = dict(load_model(spec).module.state_dict())

    def refuse(changed: object, message: str) -> None:
        torch.save(changed, path)
        with pytest.raises(InputError, match=message):
            load_model(spec, weights=path)

    refuse({k: v for k, v in state.items() if k != "1.bias"}, r"weights.pt: '1.bias' .* missing")
    refuse({**state, "2.weight": torch.ones(1)}, "'2.weight' does not belong to the model")
    refuse({**state, "0.bias": torch.ones(7)}, r"'0.bias' has shape \(7,\); the model needs \(4,\)")
    refuse([1, 2], "holds a list, not a mapping of weights")
    refuse({"0.weight": 3}, "is not a state dict")
    refuse(load_model(spec).module, "asks for torch.nn.modules.* only tensors are read")
    path.write_bytes(b"not weights")
    with pytest.raises(
        InputError, match=r"weights\.pt: is not a weight file, or is damaged: neither"
    ):
        load_model(spec, weights=path)
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read: No such file"):
        load_model(spec, weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("factory", "resolution", "shape"),
    [
        ("wide", None, (1, 20, 30)),
        ("wide", 30, (1, 20, 30)),  # as a plan file says it
        ("square", None, (1, 28, 28)),
        ("square", 40, (1, 40, 40)),
    ],
)
def test_images_may_be_grey_and_not_square(
    factories: str, factory: str, resolution: int | None, shape: tuple[int, ...]
) -> None:
    loaded = load_model(f"{factories}:{factory}", resolution=resolution, batch=2)
    assert loaded.example_input.shape == (2, *shape)


def test_what_an_input_shape_cannot_say(factories: str) -> None:
    with pytest.raises(InputError, match=r"resolution is 20; .*images are 20x30"):
        load_model(f"{factories}:wide", resolution=20)
    with pytest.raises(InputError, match=r"resolution is 20; .*input is \(1, 16000\)"):
        load_model(f"{factories}:wave", resolution=20)
    with pytest.raises(InputError, match=r"input_shape is \(0, 28, 28\); the sizes of a sample"):
        load_model(f"{factories}:empty")


def test_exported_programs_may_be_for_grey_images_that_are_not_square(tmp_path: Path) -> None:
    model = torch.nn.Conv2d(1, 2, 3).eval()
    path = tmp_path / "grey.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, (torch.zeros(1, 1, 20, 30),)), path)
    for resolution in (None, 30):  # the second is what a plan file says
        loaded = load_model(str(path), resolution=resolution)
        assert loaded.example_input.shape == (1, 1, 20, 30)
    with pytest.raises(InputError, match="exported for images of 20x30, not 20x20"):
        load_model(str(path), resolution=20)
    with pytest.raises(InputError, match=r"grey.pt2: .*batches of one size.*function"):
        load_backbone(str(path))


def test_exported_program(exported: Path) -> None:
    loaded = load_model(str(exported), batch=2)
    assert loaded.name == "tiny"
    assert loaded.provenance == "weights inside tiny.pt2"
    assert loaded.example_input.shape == (2, 3, 32, 32)
    torch.manual_seed(0)
    assert trace(loaded.module, loaded.example_input) == trace(tiny(), loaded.example_input)
    assert torch.equal(loaded.module(loaded.example_input), tiny_again()(loaded.example_input))


def tiny_again() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny()


def test_exported_program_has_its_own_sizes(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.pt2: was exported for batch 2, not 4"):
        load_model(str(exported), batch=4)
    with pytest.raises(InputError, match="was exported for images of 32x32, not 64x64"):
        load_model(str(exported), batch=2, resolution=64)
    with pytest.raises(InputError, match="has its weights inside"):
        load_model(str(exported), batch=2, weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "model 'resnet18' is unknown; give one of mcunet-5fps"),
        ("missing.pt2", "missing.pt2: cannot be read: No such file"),
        ("nowhere:factory", "nowhere cannot be imported: ModuleNotFoundError"),
        (":factory", "write it as package.module:name or file.py:name"),
        ("{}:", "write it as package.module:name or file.py:name"),
        ("{}:absent", "has no 'absent'"),
        ("{}:constant", "'constant' is neither a function nor a model"),
        ("os:abort", "Python's own modules have none"),
        ("{}:broken", "the factory fails: RuntimeError: no such layer"),
        ("{}:nothing", "the factory returns int, not a torch.nn.Module"),
    ],
)
def test_bad_names(factories: str, spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec.format(factories))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_module_with_a_syntax_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crooked_module.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="crooked_module cannot be imported: SyntaxError"):
        load_model("crooked_module:f")


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match="resolution is 16; mcunet-5fps needs at least 32"):
        load_model("mcunet-5fps", resolution=16)
    with pytest.raises(InputError, match="resolution is 0"):
        load_model("mcunet-5fps", resolution=0)
    with pytest.raises(InputError, match="batch is 0"):
        load_model("mcunet-5fps", batch=0)


def test_images_too_small_for_a_factorys_model(factories: str) -> None:
    loaded = load_model(f"{factories}:plain", resolution=2)
    with pytest.raises(InputError, match=r"shape \(1, 3, 2, 2\)"):
        trace(loaded.module, loaded.example_input)
