"""Models as people have them: scripts, arguments, instances, several outputs, checkpoints."""

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import costsim
from costsim.base.code import parse_code_name, with_arguments
from costsim.base.errors import InputError, Note
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.models.inputs import input_shape_of
from costsim.models.loading import load_given, load_model
from costsim.models.outputs import one_output

SCRIPT = """
from beside import WIDTH
import torch
from torch import nn

class Net(nn.Module):
    input_shape = (3, 16, 16)
    def __init__(self, width=WIDTH, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        features = torch.relu(self.stem(x)).mean((2, 3))
        return {"features": features, "logits": self.head(features)}

def needy(width):
    return Net(width)

made = Net(7)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script in a folder that is no package, with a module beside it that it imports."""
    folder = tmp_path / "my nets"
    folder.mkdir()
    (folder / "net.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    return "my nets/net.py"


def test_a_name_of_code_is_one_text() -> None:
    name = parse_code_name("a/net.py:Net.small(width=0.5, sizes=[1, 2], name='x:y')[heads.1]", "m")
    assert (name.place, name.attribute, name.output) == ("a/net.py", "Net.small", "heads.1")
    assert name.arguments == {"width": 0.5, "sizes": [1, 2], "name": "x:y"}
    assert parse_code_name(str(name), "m") == name
    assert with_arguments("n:f(a=1)", ("b=[x, 2]", "{a: 3}"), "--x", "m") == "n:f(a=3, b=['x', 2])"


@pytest.mark.parametrize("text", ["n:f(1)", "n:f(a=print())", "n:f(a=1", "n:f[ ]", "n:f(**{})x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^model '"):
        parse_code_name(text, "model")


def test_arguments_are_for_code_alone() -> None:
    with pytest.raises(InputError, match=r"^--model-args: mcunet-5fps takes none"):
        with_arguments("mcunet-5fps", ("a=1",), "--model-args", "model")
    with pytest.raises(InputError, match=r"^--model-args: cannot read 'width'; give name=value"):
        with_arguments("n:f", ("width",), "--model-args", "model")


def test_a_script_with_arguments_and_an_output(script: str) -> None:
    loaded = load_model(f"{script}:Net(width=6)[features]", batch=2)
    assert loaded.module(loaded.example_input).shape == (2, 6)
    assert {n for n, _ in loaded.module.named_parameters()} == {
        "stem.weight", "stem.bias", "head.weight", "head.bias"
    }  # fmt: skip
    with pytest.warns(Note, match=r"returns a dict: its 'logits' is taken \(there are features"):
        assert load_model(f"{script}:needy(width=3)").module(torch.zeros(1, 3, 9, 9)).shape == (
            1,
            10,
        )
    with pytest.raises(InputError, match=r"missing 1 .*'width'; give them with --model-args"):
        load_model(f"{script}:needy")
    with pytest.raises(InputError, match=r"no output 'logit'; there are features, logits$"):
        load_model(f"{script}:Net[logit]")
    with pytest.raises(InputError, match=r"absent\.py does not exist$"):
        load_model("absent.py:make")


def test_a_script_that_was_edited_is_read_again(script: str, tmp_path: Path) -> None:
    load_model(f"{script}:Net[logits]")
    file = tmp_path / script
    file.write_text(file.read_text().replace("classes=10", "classes=3"))
    assert load_model(f"{script}:Net[logits]").module(torch.zeros(1, 3, 9, 9)).shape == (1, 3)


def test_a_module_that_stands_in_a_script_is_copied(script: str) -> None:
    first, second = (load_model(f"{script}:made[features]").module for _ in range(2))
    with torch.no_grad():
        first.get_parameter("stem.weight").zero_()
    assert second.get_parameter("stem.weight").abs().max() > 0
    with pytest.raises(InputError, match=r"is a model already, which takes no arguments"):
        load_model(f"{script}:made(width=3)")


class Nested(nn.Module):
    """Returns tensors two levels deep."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[None, list[Tensor]]:
        y = self.body(x)
        return None, [y.argmax(1), y.mean((2, 3)), y]


def test_outputs_are_found_by_path_and_leave_the_model_whole() -> None:
    model, x = Nested().eval(), torch.rand(1, 3, 5, 5)
    one = one_output(model, x, "1.2")
    assert torch.equal(one(x), model(x)[1][2])
    with pytest.warns(Note, match=r"a tuple: its '1\.1' is taken \(there are 1\.2 too\)"):
        assert one_output(model, x)(x).shape == (1, 4)
    assert next(one.parameters()) is next(model.parameters())
    net = costsim.sparsify(
        model, UpdatePlan((ChannelSubset("body", "output", (1, 2)),)), x, output="1.1"
    )
    net(x).square().sum().backward()
    wanted = copy.deepcopy(model)
    wanted(x)[1][1].square().sum().backward()
    part = net.selected.get_parameter("body.weight").grad
    assert torch.allclose(part, wanted.body.weight.grad[1:3])
    assert net.eval()(x).shape == (1, 4), "the same output, whatever the mode"
    assert type(net.dense()) is Nested
    assert net.dense()(x)[0] is None


def test_what_libraries_say_of_their_images() -> None:
    class Said(nn.Module):
        pretrained_cfg = {"input_size": (3, 96, 80)}  # noqa: RUF012

    class Config:
        image_size, num_channels = (24, 32), 1

    class Configured(nn.Module):
        config = Config()

    assert input_shape_of(Said(), None) == (3, 96, 80)
    assert input_shape_of(Said(), 64) == (3, 64, 64)
    assert input_shape_of(Configured(), None) == (1, 24, 32)
    assert input_shape_of(nn.Identity(), None) == (3, 128, 128)
    assert input_shape_of(nn.Identity(), None, 40) == (3, 40, 40)


# Checkpoints.


def small(classes: int = 2) -> nn.Module:
    torch.manual_seed(classes)
    parts = OrderedDict(
        conv=nn.Conv2d(3, 4, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
        head=nn.Linear(4, classes),
    )  # fmt: skip
    net = nn.Sequential(parts).eval()
    net.input_shape = (3, 8, 8)  # type: ignore[assignment]
    return net


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_usual_checkpoints(tmp_path: Path, wrapped: str, prefix: str) -> None:
    given = small()
    state = {prefix + name: tensor + 1 for name, tensor in given.state_dict().items()}
    path = tmp_path / "c.pt"
    torch.save({wrapped: state, "epoch": 3}, path)
    if prefix:
        with pytest.warns(Note, match=f"names in it begin with '{prefix}'"):
            loaded = load_given(given, weights=path)
    else:
        loaded = load_given(given, weights=path)
    assert torch.equal(loaded.module.state_dict()["conv.bias"], given.state_dict()["conv.bias"] + 1)
    assert loaded.provenance == "weights from c.pt"


def test_a_head_of_another_size_is_left_out_and_said(tmp_path: Path) -> None:
    path, big, own = tmp_path / "c.pt", small(7), small(2)
    torch.save(big.state_dict(), path)
    with pytest.warns(Note, match=r"c\.pt: left out head\.weight, head\.bias, a head for other"):
        loaded = load_given(own, weights=path)
    assert loaded.provenance == "weights from c.pt but for head.weight, head.bias"
    state = loaded.module.state_dict()
    assert torch.equal(state["conv.weight"], big.state_dict()["conv.weight"])
    assert torch.equal(state["head.weight"], own.state_dict()["head.weight"])
    bare = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3))).eval()
    with pytest.warns(Note, match=r"left out head\.weight, head\.bias"):
        load_given(bare, weights=path)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    path, own = tmp_path / "c.pt", small()
    state = own.state_dict()
    torch.save({**state, "conv.weight": torch.ones(4, 5, 3, 3)}, path)
    with pytest.raises(InputError, match=r"'conv\.weight' has shape \(4, 5, 3, 3\)"):
        load_given(own, weights=path)
    torch.save({"early.weight": torch.ones(2, 2), **state}, path)
    with pytest.raises(InputError, match=r"'early\.weight' does not belong"):
        load_given(own, weights=path)


def test_a_missing_key_is_shown_beside_the_nearest(tmp_path: Path) -> None:
    path, own = tmp_path / "c.pt", small()
    state = own.state_dict()
    state["backbone.conv.weight"] = state.pop("conv.weight")
    torch.save({"backbone.conv.weight": state.pop("backbone.conv.weight"), **state}, path)
    with pytest.raises(InputError, match=r"the nearest there is 'conv\.weight'$"):
        load_given(own, weights=path)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"'conv\.weight' of the model is missing; the nearest"):
        load_given(own, weights=path)
