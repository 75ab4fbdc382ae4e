"""The glossary's words are those of the code: what it names is there under that name."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from costsim.cli import main

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \| (.+?) \|$", GLOSSARY.read_text(), re.M)
NAMED = sorted({name for _, _, where, _ in ROWS for name in re.findall(r"`(.+?)`", where)})


@cache
def classes() -> frozenset[str]:
    """Every class of the package, by the syntax trees."""
    return frozenset(
        node.name
        for path in (ROOT / "costsim").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )


@cache
def words() -> frozenset[str]:
    """Names, annotated fields and texts of the package: JSON keys and options among them."""
    found: set[str] = set()
    for path in (ROOT / "costsim").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value, *node.value.split("/")}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return frozenset(found)


def test_there_are_twenty_nouns_each_once() -> None:
    nouns = [noun for noun, *_ in ROWS]
    assert len(nouns) == len(set(nouns)) == 20


@pytest.mark.parametrize("name", NAMED)
def test_what_the_glossary_names_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("costsim "):
        assert main([*name.split()[1:], "--help"]) == 0
        assert capsys.readouterr().out.startswith("Usage: ")
    elif name[0].isupper():
        assert name in classes()
    else:
        assert name in words()


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_its_links_lead_somewhere(row: tuple[str, str, str, str]) -> None:
    links = re.findall(r"\]\((.+?)\)", row[3])
    assert links
    for link in links:
        file, _, part = link.partition("#")
        text = (GLOSSARY.parent / file).read_text()
        headings = [
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.M)
        ]
        assert not part or part in headings
