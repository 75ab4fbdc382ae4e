"""What of a script that a person trusted a file may name, and which text of it runs."""

import os
from pathlib import Path

import pytest

from costsim.base.code import find_code, parse_code_name
from costsim.base.errors import InputError
from costsim.base.trust import check_named, code_digest, name_from_now_on

SCRIPT = """
import json.decoder
import torch
from torch import hub
from torch.hub import load

load_alias = torch.hub.load

class Net:
    inner = torch
    @staticmethod
    def small():
        return None
    class Inner:
        pass

if torch:
    def make(width=1):
        return width

made = Net()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(SCRIPT)
    name_from_now_on(str(file))
    return file


@pytest.mark.parametrize(
    "name", ["make", "make(width=3)", "Net", "Net.small", "Net.Inner", "made", "make[logits]"]
)
def test_what_a_trusted_script_makes_may_be_named(script: Path, name: str) -> None:
    assert check_named(f"{script}:{name}", "a.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load(repo_or_dir='.', source='local', model='make')",
        "torch.load(f='a.pt', weights_only=False)",
        "hub.load",
        "load(repo_or_dir='.', source='local', model='make')",
        "load_alias",
        "Net.inner.load",
        "make.__globals__.clear",
        "made.inner.load",
        "nothing",
    ],
)
def test_what_a_trusted_script_imports_may_not_be_named(script: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"mine\.py.*does not make itself; name it with --trust"):
        check_named(f"{script}:{name}", "a.yaml", "--trust")


def test_what_is_named_whole_may_be_imported(script: Path) -> None:
    name_from_now_on(f"{script}:hub.load")
    assert check_named(f"{script}:hub.load", "a.yaml")


def test_code_that_moves_from_one_file_to_the_next_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "moved_nets"
    package.mkdir()
    files = package / "__init__.py", package / "nets.py"
    digests = set()
    for texts in (("a = 1\n", "def make(): return 1\n"), ("a = 1\ndef make(): return 1\n", "")):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        digests.add(code_digest("moved_nets.nets:make"))
    assert len(digests) == 2


def test_a_script_runs_as_it_is_now_and_not_as_its_bytecode_was(tmp_path: Path) -> None:
    script = tmp_path / "quick.py"
    for value in (1, 2):  # of one size, in one second: what Python takes for unchanged
        script.write_text(f"def width(): return {value}\n")
        os.utime(script, (1_700_000_000, 1_700_000_000))
        assert find_code(parse_code_name(f"{script}:width", "model"), "model")() == value
