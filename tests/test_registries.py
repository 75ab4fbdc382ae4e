"""Registries: every entry is what it says, help lists it, and nobody keeps a second list."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from costsim.solvers import SOLVERS

from costsim.base.errors import InputError
from costsim.base.registry import Entry, Registry
from costsim.cli import main
from costsim.device import shipped_devices
from costsim.hardware.targets.base import SCHEMES, Target, parse_target
from costsim.ir.step import OPTIMIZER_STATES
from costsim.learning.adaptation.guard import GUARDS
from costsim.learning.adaptation.guard.base import Guard
from costsim.learning.adaptation.method import Method
from costsim.learning.methods import METHODS
from costsim.learning.pretraining.augment import PRESETS
from costsim.learning.pretraining.settings import AUGMENTATIONS
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.base import Criterion
from costsim.run.criteria.loss import LOSSES
from costsim.studies.published import REPRODUCTIONS

ROOT = Path(__file__).parents[1]

REGISTRIES: dict[str, Registry[object]] = {
    registry.what: registry  # type: ignore[misc]
    for registry in (SOLVERS, CRITERIA, LOSSES, METHODS, GUARDS, REPRODUCTIONS)
}

LISTED = {
    "plan": (SOLVERS, CRITERIA, LOSSES),
    "pareto": (CRITERIA, LOSSES),
    "compare": (SOLVERS, CRITERIA),
    "adapt": (METHODS, GUARDS),
    "study": (METHODS, GUARDS),
    "reproduce": (REPRODUCTIONS,),
}
"""What the help of a command lists."""


def test_a_registry_makes_anew_what_its_entries_say() -> None:
    inner = Entry("fractions:Fraction", "a half", {"numerator": 1, "denominator": 2})
    registry: Registry[complex] = Registry(
        "number", {"half": Entry("builtins:complex", "as it says", {"real": inner}, {"real"})}
    )
    assert (list(registry), len(registry), "half" in registry) == (["half"], 1, True)
    assert registry.make("half") == registry["half"] == 0.5
    assert (registry.tagged("real"), registry.tagged("other")) == (("half",), ())
    with pytest.raises(InputError, match=r"^number 'third' is unknown; known are half$"):
        registry.make("third")


def test_names_with_commas_are_told_apart() -> None:
    entry = Entry("builtins:int", "")
    assert Registry[int]("one", {"a, b": entry, "c": entry}).known == "a, b; c"


@pytest.mark.parametrize("what", REGISTRIES)
def test_every_entry_is_made_and_said_in_one_line(what: str) -> None:
    for name, entry in REGISTRIES[what].entries.items():
        assert entry.words, name
        assert len(entry.words.splitlines()) == 1, name
        assert REGISTRIES[what].make(name) == REGISTRIES[what][name], "options are all there is"


def test_every_entry_is_of_its_kind() -> None:
    assert all(isinstance(one, Criterion) and one.name == name for name, one in CRITERIA.items())
    assert all(isinstance(one, Method) for one in METHODS.values())
    assert all(isinstance(one, Guard) and one.name == name for name, one in GUARDS.items())
    assert all(callable(one) and callable(one.context) for one in LOSSES.values())
    for name, solver in SOLVERS.items():
        assert list(inspect.signature(solver).parameters) == ["problem"]
        assert name.startswith(solver.name)
    assert all(issubclass(entry.load(), Target) for entry in SCHEMES.values())


def test_tags_are_true() -> None:
    assert METHODS.tagged("source") == tuple(n for n, m in METHODS.items() if m.needs_source)
    for tag in ("no scores", "whole network"):
        for name in SOLVERS.tagged(tag):
            assert SOLVERS[name].name == name, "an instance is found by its name"
    for entry in SCHEMES.values():
        assert ("timed" in entry.tags) == entry.load().threaded, "a computer"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_target_is_written_as_its_entry_says(scheme: str) -> None:
    words = SCHEMES[scheme].words.replace("user@host:port", "pi@10.0.0.7:22")
    assert isinstance(parse_target(words), SCHEMES[scheme].load())


@pytest.mark.parametrize("command", LISTED)
def test_help_lists_every_entry(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for registry in LISTED[command]:
        for name, entry in registry.entries.items():
            line = next(line for line in lines if line.startswith(f"{name}  "))
            assert entry.words.startswith(line.removeprefix(name).strip()), line


def test_augmentations_are_the_presets() -> None:
    assert tuple(PRESETS) == AUGMENTATIONS


# Lists of names.

TABLES: Mapping[str, tuple[str, ...]] = {
    **{what: tuple(registry) for what, registry in REGISTRIES.items()},
    "accounting": ACCOUNTINGS,
    "device": tuple(shipped_devices()),
    "optimizer": tuple(OPTIMIZER_STATES),
    "target": tuple(SCHEMES),
}

BY_HAND: Mapping[tuple[str, str], str] = {
    ("costsim/pricing/accounting/__init__.py", "accounting"): "the table",
    ("costsim/c/emission/support.py", "optimizer"): "those that have kernels in narrow bits",
    ("costsim/hardware/calibration/probes.py", "optimizer"): "how often each is drawn",
    ("costsim/run/criteria/step_gain.py", "optimizer"): "directions that there are formulas for",
    ("solvers/__init__.py", "solver"): "the default of a comparison",
    ("costsim/cli/study.py", "method"): "an example of a file",
    ("costsim/studies/published/paper_costs.py", "method"): "what is assumed of two of them",
}
"""Lists that say something of some names that no table does, each with its reason."""


Found = tuple[str, tuple[str, ...]]
"""What names are of, and the names."""


def lists_of_names() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every list in the code of two names or more that are all of one table, and its file."""
    for folder in ("costsim", "solvers"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            # A docstring is for who reads the code, but that of a command is its help.
            told = "costsim/cli/" in file.as_posix()
            for what, words in (*in_code(tree), *in_strings(tree, docstrings=told)):
                yield str(file.relative_to(ROOT)), what, words


def in_code(tree: ast.Module) -> Iterator[Found]:
    """Tuples, lists and sets."""
    nodes = list(ast.walk(tree))
    types = {id(node.slice) for node in nodes if isinstance(node, ast.Subscript)}
    for node in nodes:
        if not isinstance(node, ast.Tuple | ast.List | ast.Set) or len(node.elts) < 2:
            continue
        if id(node) in types:
            continue
        constants = [e.value for e in node.elts if isinstance(e, ast.Constant)]
        words = tuple(value for value in constants if isinstance(value, str))
        for what, names in TABLES.items():
            if len(words) == len(node.elts) and set(words) <= set(names):
                yield what, words


def in_strings(tree: ast.Module, *, docstrings: bool) -> Iterator[Found]:
    """Sentences that say one name after another, such as `SGD, Adam or Momentum`."""
    nodes = list(ast.walk(tree))
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if docstrings or id(node) not in bare:
            yield from in_text(node.value)


def in_text(text: str) -> Iterator[Found]:
    """The lists in one string."""
    for what, names in TABLES.items():
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        name = rf"(?<![\w.-])[`'\"]?({'|'.join(longest_first)})[`'\"]?(?![\w-])"
        between = r"\s*(?:,|\||/|,?\s(?:or|and)\s)\s*"
        for found in re.finditer(f"{name}(?:{between}(?:or |and )?{name})+", text):
            yield what, tuple(one[1] for one in re.finditer(name, found[0]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("by sgd, adam or momentum", [("optimizer", ("sgd", "adam", "momentum"))]),
        ("[sgd|adam]", [("optimizer", ("sgd", "adam"))]),
        ("`exact` and `greedy`", [("solver", ("exact", "greedy"))]),
        ("local, or ssh://user@host", [("target", ("local", "ssh"))]),
        ("the exact solver, greedy ones apart", []),
        ("sgd, adamant", []),
    ],
)
def test_a_list_in_a_sentence_is_seen(text: str, found: list[Found]) -> None:
    assert list(in_text(text)) == found


def test_nobody_keeps_a_list_of_names_by_hand() -> None:
    found = {(file, what): words for file, what, words in lists_of_names()}
    assert found.keys() - BY_HAND.keys() == set(), found
    assert BY_HAND.keys() - found.keys() == set(), "this one is no longer there"
