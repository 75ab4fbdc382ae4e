"""Weight files: the published ones, our own, and files that are none."""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_weights import FLOAT, INT8, int8_document, write_int8
from safetensors.torch import save_file

from costsim.base.errors import InputError
from costsim.data import ImageFolder, open_images, sample_task
from costsim.models.networks import NETWORKS
from costsim.models.networks.build import Network, build, fold, synthetic_images
from costsim.models.networks.restricted_pickle import loads_restricted
from costsim.models.networks.weights import load_weights


def write_archive(path: Path, data: bytes) -> Path:
    """`data` as the pickle of a `torch.save` archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def test_int8_values_are_scaled(tmp_path: Path) -> None:
    document = int8_document("mcunet-5fps")
    path = write_int8(tmp_path / "w.pkl", document)
    network, says = load_weights("mcunet-5fps", path)
    params = document["first_conv"]["params"]
    scales = params["w_scales"].astype(np.float64)
    np.testing.assert_allclose(
        network.stem.weight.detach().numpy(),
        params["weight"] * scales[:, None, None, None],
        rtol=1e-6,
    )
    assert network.stem.bias is not None
    np.testing.assert_allclose(
        network.stem.bias.detach().numpy(), params["bias"] * 0.02 * scales, rtol=1e-6
    )
    assert "int8 weights of mcunet-5fps from w.pkl" in says
    assert "feature mix" not in says
    assert not network.training


def test_int8_without_feature_mix_says_so(tmp_path: Path) -> None:
    path = write_int8(tmp_path / "w.pkl", int8_document("mbv2-w0.35"))
    network, says = load_weights("mbv2-w0.35", path)
    assert "without feature mix" in says
    assert network(torch.zeros(1, 3, 128, 128)).shape == (1, 112)


def test_int8_of_another_network(tmp_path: Path) -> None:
    path = write_int8(tmp_path / "w.pkl", int8_document("mbv2-w0.35"))
    with pytest.raises(InputError, match=r"w\.pkl: holds 51 convolutions; mcunet-5fps has 42"):
        load_weights("mcunet-5fps", path)


def test_int8_of_other_shapes_names_the_layer(tmp_path: Path) -> None:
    document = int8_document("mcunet-5fps")
    params = document["blocks"][3]["depthwise"]["params"]
    params["weight"] = params["weight"][:, :, :5, :5]
    path = write_int8(tmp_path / "w.pkl", document)
    with pytest.raises(
        InputError,
        match=r"blocks\.3\.depthwise\.weight has shape \(48, 1, 5, 5\); "
        r"the network needs \(48, 1, 7, 7\)",
    ):
        load_weights("mcunet-5fps", path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_int8_with_nan_names_the_layer(tmp_path: Path, value: float) -> None:
    document = int8_document("mcunet-5fps")
    document["blocks"][0]["pointwise2"]["params"]["w_scales"][0] = value
    path = write_int8(tmp_path / "w.pkl", document)
    with pytest.raises(InputError, match=r"blocks\.0\.project\.weight has values that are NaN"):
        load_weights("mcunet-5fps", path)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    state = build("mcunet-5fps", seed=0).state_dict()
    state["stem.weight"] = state["stem.weight"].to(torch.int32)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"stem\.weight is of torch\.int32; floating-point"):
        load_weights("mcunet-5fps", tmp_path / "w.pt")


def test_int8_with_a_missing_key(tmp_path: Path) -> None:
    document = int8_document("mcunet-5fps")
    del document["blocks"][2]["depthwise"]["params"]["w_scales"]
    path = write_int8(tmp_path / "w.pkl", document)
    with pytest.raises(InputError, match=r"is not an int8 network: KeyError 'w_scales'"):
        load_weights("mcunet-5fps", path)


def test_int8_has_no_batch_norm(tmp_path: Path) -> None:
    path = write_int8(tmp_path / "w.pkl", int8_document("mcunet-5fps"))
    with pytest.raises(InputError, match="batch norm folded"):
        load_weights("mcunet-5fps", path, batch_norm=True)


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def test_pickles_that_call_functions_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    document = {"first_conv": _Calls(Path.touch, target), "blocks": []}
    archive = write_archive(tmp_path / "w.pkl", pickle.dumps(document, protocol=2))
    with pytest.raises(InputError, match=r"w\.pkl: the pickle asks for .*; only arrays are read"):
        load_weights("mcunet-5fps", archive)
    with_tensor = tmp_path / "t.pth"
    torch.save({"first_conv.conv.weight": torch.zeros(1), "x": _Calls(eval, "1")}, with_tensor)
    with pytest.raises(InputError, match=r"t\.pth: the pickle asks for .*eval"):
        load_weights("mcunet-5fps", with_tensor)
    assert not target.exists()


def test_a_bare_pickle_is_refused_in_one_line_without_a_warning(tmp_path: Path) -> None:
    target, bare = tmp_path / "touched", tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps({"x": _Calls(Path.touch, target)}, protocol=4))
    with pytest.raises(InputError, match=r"bare\.pth: .*UnpicklingError"):
        load_weights("mcunet-5fps", bare)
    assert not target.exists()


def test_restricted_pickle_reads_arrays_and_containers() -> None:
    value = collections.OrderedDict(
        a=np.arange(6, dtype=np.int8).reshape(2, 3),
        b=[np.asfortranarray(np.eye(3)), (np.float64(0.5).item(), "text", None, True)],
        c=np.arange(3, dtype=">f4"),
        d=np.array(7, np.int32),
    )
    for protocol in (2, 3, 4):
        read = loads_restricted(pickle.dumps(value, protocol=protocol))
        np.testing.assert_equal(read, dict(value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([object], dtype=object), "array of type 'O8'"),
        (_Calls(print, "x"), r"asks for (__builtin__|builtins)\.print"),
        (_Calls(np.dtype, "V99999999"), "array of type 'V99999999'"),
    ],
)
def test_restricted_pickle_refuses(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loads_restricted(pickle.dumps(value, protocol=2))


def test_restricted_pickle_refuses_data_outside() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> str | None:
            return "outside" if obj == "x" else None

    buffer = io.BytesIO()
    Pickler(buffer).dump(["x"])
    with pytest.raises(InputError, match="outside itself"):
        loads_restricted(buffer.getvalue())


def test_restricted_pickle_refuses_every_truncation() -> None:
    whole = pickle.dumps({"a": np.arange(5, dtype=np.int8), "b": 1}, protocol=2)
    for length in range(len(whole)):
        with pytest.raises(InputError):
            loads_restricted(whole[:length])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_own_state_dict_round_trips(tmp_path: Path, suffix: str, batch_norm: bool) -> None:
    network = build("mbv2-w0.35", seed=5, batch_norm=batch_norm)
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    loaded, says = load_weights("mbv2-w0.35", path, batch_norm=batch_norm)
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert says == f"weights of mbv2-w0.35 from w{suffix}"


def test_own_state_dict_with_batch_norm_is_folded(tmp_path: Path) -> None:
    torch.save(build("mcunet-5fps", seed=5, batch_norm=True).state_dict(), tmp_path / "w.pt")
    loaded, _ = load_weights("mcunet-5fps", tmp_path / "w.pt")
    for key, value in build("mcunet-5fps", seed=5).state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_own_state_dict_without_feature_mix(tmp_path: Path) -> None:
    torch.save(build("mbv2-w0.35", feature_mix=False).state_dict(), tmp_path / "w.pt")
    loaded, says = load_weights("mbv2-w0.35", tmp_path / "w.pt")
    assert loaded(torch.zeros(1, 3, 64, 64)).shape == (1, 112)
    assert "without feature mix" in says


def edited(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    state = build("mcunet-5fps").state_dict() | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    path = tmp_path / "w.pt"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


def test_own_state_dict_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stem\.bias has shape \(4,\); the network needs \(16,\)"):
        load_weights("mcunet-5fps", edited(tmp_path, stem__bias=torch.zeros(4)))
    with pytest.raises(InputError, match=r"stem\.bias is missing"):
        load_weights("mcunet-5fps", edited(tmp_path, stem__bias=None))
    with pytest.raises(InputError, match=r"extra\.bias does not belong"):
        load_weights("mcunet-5fps", edited(tmp_path, extra__bias=torch.zeros(1)))
    with pytest.raises(InputError, match=r"stem\.bias has values that are NaN"):
        load_weights("mcunet-5fps", edited(tmp_path, stem__bias=torch.full((16,), torch.nan)))
    with pytest.raises(InputError, match="there is none"):
        load_weights("mcunet-5fps", edited(tmp_path), batch_norm=True)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_weights("mcunet-5fps", tmp_path / "missing.pt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_weights("mcunet-5fps", tmp_path)
    for suffix in ("pkl", "safetensors"):
        for content in (b"", b"hello", b"PK\x03\x04 no archive", b'{"a": 1}'):
            path = tmp_path / f"w.{suffix}"
            path.write_bytes(content)
            with pytest.raises(InputError, match="is not a weight file, or is damaged"):
                load_weights("mcunet-5fps", path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list, not a mapping"):
        load_weights("mcunet-5fps", tmp_path / "list.pt")
    torch.save({"layer": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"unknown weights; the first entries are layer"):
        load_weights("mcunet-5fps", tmp_path / "other.pt")
    torch.save({"state_dict": {"x": 3}}, tmp_path / "odd.pt")
    with pytest.raises(
        InputError, match="is not a state dict, a mapping of names to tensors: 'x' is"
    ):
        load_weights("mcunet-5fps", tmp_path / "odd.pt")


def test_truncated_files(tmp_path: Path) -> None:
    torch.save(build("mcunet-5fps").state_dict(), tmp_path / "whole.pt")
    write_int8(tmp_path / "whole.pkl", int8_document("mcunet-5fps"))
    save_file(build("mcunet-5fps").state_dict(), tmp_path / "whole.safetensors")
    for whole in ("whole.pt", "whole.pkl", "whole.safetensors"):
        data = (tmp_path / whole).read_bytes()
        cut = tmp_path / f"cut{Path(whole).suffix}"
        for share in (0.01, 0.5, 0.99):
            cut.write_bytes(data[: int(share * len(data))])
            with pytest.raises(InputError, match=str(cut)):
                load_weights("mcunet-5fps", cut)


def test_files_that_unpack_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costsim.models.networks.int8.MAXIMUM_BYTES", 2**20)
    path = tmp_path / "w.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**21))
    with pytest.raises(InputError, match="unpacks to more than"):
        load_weights("mcunet-5fps", path)


# The published files


@pytest.mark.parametrize("name", INT8)
def test_published_int8_files(shared: Path, name: str) -> None:
    network, says = load_weights(name, shared / "weights" / INT8[name])
    last = NETWORKS[name].blocks[-1].out
    features = network(torch.zeros(1, 3, 128, 128))
    assert features.shape == (1, last)
    assert ("without feature mix" in says) == (NETWORKS[name].feature_mix is not None)


@pytest.mark.parametrize("name", FLOAT)
def test_published_float_files_fold(shared: Path, name: str) -> None:
    path = shared / "weights" / FLOAT[name]
    folded, says = load_weights(name, path)
    unfolded, _ = load_weights(name, path, batch_norm=True)
    x = synthetic_images(2, 128, torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = folded(x)
        torch.testing.assert_close(features, unfolded(x), rtol=0, atol=1e-4)
        exact = fold(unfolded.double())(x.double())
        torch.testing.assert_close(exact, unfolded(x.double()), rtol=0, atol=1e-5)
    assert "classifier left out" in says
    assert features.shape == (2, NETWORKS[name].features)


def test_published_files_of_other_networks(shared: Path) -> None:
    with pytest.raises(InputError, match=r"holds 54 .*; proxyless-w0\.3 without .* has 60"):
        load_weights("proxyless-w0.3", shared / "weights" / FLOAT["mcunet-320kb-1mb"])


def nearest_mean_accuracy(network: Network, source: ImageFolder, seed: int) -> float:
    """Cosine similarity to the class means of 5 shots, 10 ways, 10 queries a class."""
    task = sample_task(source, ways=10, shots=5, queries=10, seed=seed, resolution=128)
    with torch.no_grad():
        support = network(torch.tensor(task.images))
        queries = network(torch.tensor(task.query_images))
    means = torch.nn.functional.normalize(support.unflatten(0, (10, 5)).mean(1), dim=1)
    predicted = (torch.nn.functional.normalize(queries, dim=1) @ means.T).argmax(1)
    return float((predicted.numpy() == task.query_labels).mean())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mcunet-5fps", INT8["mcunet-5fps"]),
        *(
            pytest.param(name, file, marks=pytest.mark.slow)
            for name, file in (*INT8.items(), *FLOAT.items())
            if file != INT8["mcunet-5fps"]
        ),
    ],
)
@pytest.mark.slow
def test_published_weights_recognise_new_classes(shared: Path, name: str, file: str) -> None:
    """About 70 % on 10-way 5-shot tasks; chance is 10 %."""
    network, _ = load_weights(name, shared / "weights" / file)
    source = open_images(shared / "data" / "mini_imagenet.tar.gz", split="val")
    accuracies = [nearest_mean_accuracy(network, source, seed) for seed in range(3)]
    assert sum(accuracies) / len(accuracies) > 0.6
