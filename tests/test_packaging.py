"""What is installed: the same packages from a wheel, a source archive and an editable install."""

import importlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
IMPORTED = {"costsim.solvers": ROOT / "solvers", "costsim.devices": ROOT / "devices"}
OUTSIDE = {**IMPORTED, "costsim.examples": ROOT / "examples"}


def expected() -> set[str]:
    """Files a wheel must have, as paths inside it."""
    files = set()
    for folder, installed in (("costsim", "costsim"), *((p.name, n) for n, p in OUTSIDE.items())):
        for file in (ROOT / folder).rglob("*"):
            kinds = {
                ".py",
                ".typed",
                ".yaml",
                ".ipynb",
                ".html",
                ".css",
                ".js",
                ".md",
                ".jinja",
                ".safetensors",
                ".c",
                ".h",
            }
            if file.suffix in kinds or file.name in ("Makefile", "CMakeLists.txt"):
                inner = file.relative_to(ROOT / folder).as_posix()
                files.add(f"{installed.replace('.', '/')}/{inner}")
    return files


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    folders = {file.parent for file in (ROOT / "costsim").rglob("__init__.py")}
    inside = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert TABLE["packages"] == sorted(inside | set(OUTSIDE))
    assert {name: ROOT / path for name, path in TABLE["package-dir"].items()} == {
        "costsim": ROOT / "costsim",
        **OUTSIDE,
    }


@pytest.mark.parametrize("name", IMPORTED)
def test_an_editable_install_reaches_the_folders_beside_the_library(name: str) -> None:
    module = importlib.import_module(name)
    folder = Path(str(module.__file__)).parent
    installed = Path(str(importlib.import_module("costsim").__file__)).parent
    if installed != ROOT / "costsim":
        pytest.skip("the tests run against an install that is not editable")
    assert folder == OUTSIDE[name]
    inner = [file.stem for file in folder.glob("*.py") if file.stem != "__init__"]
    for stem in inner:
        assert importlib.import_module(f"{name}.{stem}").__file__ == str(folder / f"{stem}.py")


def test_the_wheel_and_the_source_archive_are_whole(tmp_path: Path) -> None:
    # The wheel is built from the source archive, so it also shows that the archive is enough.
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    (archive,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (entry_points,) = (n for n in names if n.endswith(".dist-info/entry_points.txt"))
        assert "costsim = costsim.cli:main" in opened.read(entry_points).decode()
        metadata = opened.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == expected()
    shown = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")
    assert metadata.endswith(shown)  # what an index shows, which has no way into the repository
    for needed in (
        "Keywords: ",
        "Author: ",
        "Description-Content-Type: text/markdown",
        "Summary: ",
    ):
        assert f"\n{needed}" in metadata
    assert {f"costsim/examples/{f.name}" for f in (ROOT / "examples").glob("*.*")} <= packaged
    assert {"costsim/py.typed", "costsim/solvers/__init__.py"} <= packaged
    assert {f"costsim/devices/{f.name}" for f in (ROOT / "devices").glob("*.yaml")} <= packaged
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(archive) as opened_archive:
        inside = {name.partition("/")[2] for name in opened_archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "solvers/__init__.py"} <= inside
    assert {f"devices/{file.name}" for file in (ROOT / "devices").glob("*.yaml")} <= inside
