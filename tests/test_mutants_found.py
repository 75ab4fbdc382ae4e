"""The wrong lines of `make mutants` fit the tree: the list does not rot between two runs."""

from pathlib import Path

import pytest
from mutants import lines_at, planted
from planted_lines import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
FEWEST = 20
PARTS = (
    "costsim/base/intervals.py",
    "costsim/c/emission/",
    "costsim/data/episode.py",
    "costsim/ir/operators/",
    "costsim/ir/program/",
    "costsim/ir/program/arena.py",
    "costsim/pricing/derivation/",
    "costsim/pricing/table.py",
    "costsim/run/execution/",
    "costsim/studies/engine/cell_store.py",
    "solvers/",
)
"""What at least one wrong line is planted in."""


def named(mutant: Mutant) -> str:
    return f"{mutant.file}: {mutant.old}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=named)
def test_each_line_is_there_once_and_so_are_its_tests(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert len(lines_at(text, mutant.old)) == 1
    assert planted(text, mutant) != text
    for test in mutant.tests:
        path, name = test.split("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


def test_they_are_enough_and_no_two_are_the_same() -> None:
    assert len({(m.file, m.new) for m in MUTANTS}) == len(MUTANTS) >= FEWEST
    for part in PARTS:
        assert any(m.file.startswith(part) for m in MUTANTS), f"nothing is planted in {part}"


@pytest.mark.parametrize("text", ["", "x = 1\nx = 1\n", "x = 1  # once\n"])
def test_a_line_that_is_not_there_once_is_refused(text: str) -> None:
    mutant = Mutant("a.py", "x = 1", "x = 2", ())
    with pytest.raises(ValueError, match="values to unpack"):
        planted(text, mutant)
    assert planted("if y:\n    x = 1\n", mutant) == "if y:\n    x = 2\n"
