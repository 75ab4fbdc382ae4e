"""The structure: which way imports point, what stays light, what every table must cover."""

import ast
import contextlib
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from fork_server import run
from packaging.requirements import Requirement

from costsim.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDERS = {"costsim": "costsim", "solvers": "costsim.solvers", "devices": "costsim.devices"}

# The wings, floor by floor: a wing imports itself and wings of lower floors, and nothing else.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("ir", "data"),
    ("device", "models"),
    ("pricing", "c"),
    ("problem",),
    ("solving", "solvers"),
    ("run",),
    ("planning",),
    ("learning",),
    ("hardware", "studies"),
    ("report",),
    ("cli",),
)
WINGS = tuple(wing for floor in FLOORS for wing in floor)
FLOOR = {wing: number for number, floor in enumerate(FLOORS) for wing in floor}
MOST_WINGS, MOST_FLOORS = 17, 12

# Wings in which nothing names torch, not even when a function runs; of `models`, all but these.
CORE = ("base", "ir", "data", "device", "pricing", "c", "problem", "solving", "solvers")
NAMED_WITHOUT_TORCH = ("models.networks", "studies.engine")
BUILT_WITH_TORCH = (
    "models.networks.build",
    "models.networks.tensors",
    "models.networks.weights",
)
TORCH = frozenset({"torch", "safetensors"})
# These may import torch at their top, because nothing imports them before torch is needed.
TORCH_LAND = (
    "hardware.boards.learning_validation",
    "hardware.calibration.timing",
    "hardware.meters.adaptation",
    "hardware.meters.allocator",
    "hardware.meters.measure",
    "hardware.meters.observe",
    "hardware.meters.plan_validation",
    "hardware.meters.scratch",
    "hardware.meters.stepping",
    "hardware.targets.plan_run",
    "learning.adaptation",
    "learning.methods",
    "learning.pretraining",
    "learning.training",
    "models.folding",
    "models.networks.build",
    "models.networks.tensors",
    "models.networks.weights",
    "models.outputs",
    "models.state",
    "models.tokens",
    "models.tracing",
    "run.criteria.passes",
    "run.criteria.slopes",
    "run.execution",
    "run.native.arena_views",
    "run.native.backend",
    "run.native.buffer_shapes",
    "run.native.executor",
    "run.native.self_check",
    "run.sparse",
)

# The extras for working on costsim and measuring it; every other one brings a capability.
TOOLS = ("benchmark", "test", "dev", "docs", "zoo")

# Imported though a declared package brings it.
COMES_WITH = {"pydantic-core": "pydantic", "markupsafe": "jinja2"}


@dataclass(frozen=True)
class Imported:
    """One import: the module named, and whether it runs when its file is imported."""

    module: str
    at_import: bool


@cache
def sources() -> Mapping[str, Path]:
    """Every module of the library by its installed name."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imports(module: str) -> tuple[Imported, ...]:
    """All imports of a module, relative ones resolved, lazy ones included."""
    file = sources()[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(_imports(ast.parse(file.read_text(encoding="utf-8")), package, True))


def _imports(node: ast.AST, package: str, at_import: bool) -> Iterator[Imported]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Imported(alias.name, at_import) for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) + 1 - level] if level else []
                origin = ".".join([*base, *([name] if name else [])])
                inner = [f"{origin}.{alias.name}" for alias in names]
                modules = [name for name in inner if name in sources()]
                # `from package import module` takes the module, not all that the package imports.
                whole = len(modules) == len(inner)
                yield from (Imported(name, at_import) for name in modules or [origin])
                if modules and not whole:
                    yield Imported(origin, at_import)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _imports(child, package, False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _imports(child, package, False)
            case _:
                yield from _imports(child, package, at_import)


def inner(module: str) -> str:
    """The name of a module below `costsim`."""
    return module.removeprefix("costsim").removeprefix(".")


def is_in(module: str, *places: str) -> bool:
    """Whether a module is one of `places` (names below `costsim`), or lies in one."""
    return f"{inner(module)}.".startswith(tuple(f"{place}." for place in places))


def wing(module: str) -> str | None:
    """The wing a module stands in; `None` of the package itself, its start, and the devices."""
    first = inner(module).partition(".")[0]
    return first if first in WINGS else None


def ours() -> Iterator[tuple[str, str]]:
    """Pairs of a module and one of ours it imports."""
    for module in sources():
        for imported in imports(module):
            if imported.module.partition(".")[0] == "costsim":
                yield module, imported.module


def test_every_module_stands_in_a_wing() -> None:
    beside = {"costsim", "costsim.__main__", "costsim.devices"}
    assert {module for module in sources() if wing(module) is None} == beside
    assert {wing(module) for module in sources()} - {None} == set(WINGS)


def test_a_person_can_hold_the_wings_in_the_head() -> None:
    below = [entry for entry in (ROOT / "costsim").iterdir() if entry.name != "__pycache__"]
    assert len([entry for entry in below if entry.is_dir()]) <= MOST_WINGS
    assert len(FLOORS) <= MOST_FLOORS
    loose = {entry.name for entry in below if entry.is_file()}
    assert loose == {"__init__.py", "__main__.py", "py.typed"}


def test_imports_point_one_way() -> None:
    against = [
        f"{module} imports {imported}"
        for module, imported in ours()
        if (importer := wing(module)) != (target := wing(imported))
        and importer is not None
        and target is not None
        and FLOOR[target] >= FLOOR[importer]
    ]
    assert not against


def test_what_registries_name_stands_where_imports_may_point() -> None:
    named = [
        (module, place)
        for module, file in sources().items()
        for place in re.findall(r'"(costsim(?:\.\w+)+):\w+"', file.read_text(encoding="utf-8"))
    ]
    assert len(named) > 30
    assert {place for _, place in named} <= set(sources())
    against = [
        f"{module} names {place}"
        for module, place in named
        if (by := wing(module)) != (of := wing(place))
        and by is not None
        and of is not None
        and FLOOR[of] >= FLOOR[by]
    ]
    assert not against


def test_the_structure_page_shows_the_wings_floor_by_floor() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    shown = [re.findall(r"`(?:costsim/)?(\w+)/`", row) for row in rows]
    assert [sorted(floor) for floor in shown] == [sorted(floor) for floor in FLOORS]


def test_what_the_structure_page_names_exists() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:costsim|solvers|devices|tests|docs|benchmarks)/[\w./-]*)`", text))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_package_itself_imports_nothing() -> None:
    at_import = {imported.module for imported in imports("costsim") if imported.at_import}
    assert {module.partition(".")[0] for module in at_import} <= set(sys.stdlib_module_names)
    assert imports("costsim.devices") == ()


def test_no_module_is_imported_in_a_circle() -> None:
    # The package itself names parts of it, and imports one when it is asked for.
    graph = nx.DiGraph((a, b) for a, b in ours() if a not in (b, "costsim"))
    assert list(nx.simple_cycles(graph)) == []


def names_torch(module: str) -> bool:
    return any(one.module.partition(".")[0] in TORCH for one in imports(module))


@pytest.mark.parametrize("core", CORE)
def test_core_has_no_torch(core: str) -> None:
    assert [module for module in sources() if wing(module) == core and names_torch(module)] == []


def test_what_is_known_of_networks_and_studies_without_torch() -> None:
    light = [m for m in sources() if is_in(m, *NAMED_WITHOUT_TORCH)]
    assert light
    assert [m for m in light if names_torch(m) and not is_in(m, *BUILT_WITH_TORCH)] == []


def test_only_torch_land_imports_torch_on_import() -> None:
    named = {
        f"{module} imports {imported.module}"
        for module in sources()
        for imported in imports(module)
        if imported.at_import
        and imported.module.partition(".")[0] in TORCH
        and not is_in(module, *TORCH_LAND)
    }
    assert not named


def test_solvers_see_only_the_problem() -> None:
    allowed = ("solvers", "problem", "pricing", "ir", "base.errors", "base.registry")
    for module in sources():
        if wing(module) != "solvers":
            continue
        for imported in imports(module):
            top = imported.module.partition(".")[0]
            if top == "costsim":
                assert is_in(imported.module, *allowed), f"{module} imports {imported.module}"
            else:
                assert top in {*sys.stdlib_module_names, "numpy", "pulp", "highspy"}, module


def test_only_what_composes_knows_the_solvers() -> None:
    knowing = {module for module, imported in ours() if wing(imported) == "solvers"}
    composing = (
        "solvers", "planning", "learning.methods", "studies.published", "studies.solvers", "cli",
    )  # fmt: skip
    assert [module for module in knowing if not is_in(module, *composing)] == []


def test_modules_go_by_their_installed_names() -> None:
    found = [(module, one.module) for module in sources() for one in imports(module)]
    assert [pair for pair in found if pair[1].partition(".")[0] in ("solvers", "devices")] == []


def test_every_public_name_exists_and_is_listed_once() -> None:
    wrong: list[tuple[str, str]] = []
    for module in sorted(sources().keys() - {"costsim.__main__"}):
        loaded = importlib.import_module(module)
        names = getattr(loaded, "__all__", ())
        wrong += [(module, n) for n in names if not hasattr(loaded, n) or names.count(n) > 1]
    assert wrong == []


def loaded_by(code: str) -> frozenset[str]:
    """Top-level modules in a fresh interpreter after it ran `code`."""
    script = f"import sys\n{code}\nprint('MODULES', *(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return frozenset(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_is_free() -> None:
    heavy = {"torch", "numpy", "pydantic", "networkx", "rich", "click", "yaml"}
    assert loaded_by("import costsim").isdisjoint(heavy)


def test_the_package_offers_its_names_without_loading_more_than_they_need() -> None:
    package = importlib.import_module("costsim")
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("costsim.")
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
    loaded = loaded_by("from costsim import UpdatePlan, compile_program, load_device, price")
    assert "torch" not in loaded


@pytest.mark.parametrize("arguments", [["devices"], ["models"]])
def test_commands_that_need_no_torch_do_not_load_it(arguments: list[str]) -> None:
    loaded = loaded_by(f"from costsim.cli import main\nassert main({arguments!r}) == 0")
    assert loaded.isdisjoint({"torch", "matplotlib", "sklearn"})


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_loads_no_more_than_the_command_line(command: tuple[str, ...]) -> None:
    loaded = loaded_by(f"from costsim.cli import main\nassert main([*{command!r}, '--help']) == 0")
    lists_devices = {"numpy", "pydantic", "yaml", "rich"} if command == ("devices",) else set()
    heavy = {"torch", "numpy", "pydantic", "networkx", "pulp", "highspy", "rich", "yaml"}
    assert loaded.isdisjoint(heavy - lists_devices)


@pytest.mark.parametrize(
    "module",
    [
        "run.criteria",
        "models.loading",
        "models.networks",
        "report",
        "data",
        "solving.solve",
        "hardware.results.comparison",
        "hardware.results.machine",
    ],
)
def test_importing_a_part_does_not_load_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"import costsim.{module}")


def project() -> dict[str, Any]:
    """The `project` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> set[str]:
    """Names of the packages that requirements ask for here, on this Python and without extras."""
    parsed = [Requirement(text) for text in requirements]
    return {
        normalised(one.name)
        for one in parsed
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def test_dependencies_are_those_imported() -> None:
    runtime = declared(project()["dependencies"])
    tops = {imported.module.partition(".")[0] for m in sources() for imported in imports(m)}
    external = tops - set(sys.stdlib_module_names) - {"costsim"}
    owners = packages_distributions()
    imported = {normalised(owner) for top in external for owner in owners.get(top, [top])}
    used = {COMES_WITH.get(name, name) for name in imported}
    assert used - optional() == runtime


def optional() -> set[str]:
    """Packages of the extras that bring a capability: a file that needs one imports it lazily."""
    extras = project()["optional-dependencies"]
    return declared(one for name in extras if name not in TOOLS for one in extras[name]) - {
        "costsim"
    }


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def wanted() -> set[str]:
    """Packages that pyproject.toml names, for running, tests and development."""
    metadata = project()
    extras = [one for group in metadata["optional-dependencies"].values() for one in group]
    return declared([*metadata["dependencies"], *extras]) - {"costsim"}


def test_every_dependency_is_pinned_to_one_version() -> None:
    assert wanted() <= set(pins())
    assert all(re.fullmatch(r"[\w.]+", pinned) for pinned in pins().values())
    assert {"pip", "setuptools", "wheel"} <= set(pins())


def required(names: set[str]) -> set[str]:
    """All packages that `names` need here, themselves included, as far as they are installed."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        found.add(name := waiting.pop())
        if is_installed(name):
            waiting |= declared(requires(name) or []) - found
    return found


def test_pins_are_what_is_needed_and_nothing_else() -> None:
    needed = required(wanted())
    assert needed <= set(pins())
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    elsewhere = declared(re.findall(r"^[\w.-]+==\S+", text.partition("# Only")[2], re.MULTILINE))
    builds = {"pip", "setuptools", "wheel"}
    assert {n for n in set(pins()) - needed - elsewhere - builds if is_installed(n)} == set()


def is_installed(name: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(name))
    return False


def test_the_tests_run_on_the_pinned_torch() -> None:
    assert version("torch").partition("+")[0] == pins()["torch"]


def blocks(language: str) -> list[str]:
    """The README's blocks of one language, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_opens_with_the_two_commands_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    main_job, tests = blocks("sh")
    assert main_job.splitlines()[-1].endswith("costsim plan --device jetson-nano")
    assert tests.splitlines()[-1].endswith("pytest")
    for command in (main_job, tests):
        installs = [line for line in command.split("&&") if "pip install" in line]
        assert installs
        assert all("-c constraints.txt" in line for line in installs)
    assert script.count('bash -euo pipefail -c "$(readme 1)"') == 1
    assert script.count('bash -euo pipefail -c "$(readme 2)"') == 1
    for number, command in enumerate((main_job, tests), start=1):
        awk = re.search(r"awk -v wanted=\"\$1\" '([^']*)'", script)
        assert awk is not None
        found = subprocess.run(
            ["awk", "-v", f"wanted={number}", awk[1], "README.md"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        assert found == command


@pytest.mark.parametrize("example", blocks("python"))
def test_the_readmes_examples_run(example: str) -> None:
    done = run(["-c", example], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readmes_sample_is_what_the_main_job_prints() -> None:
    (sample,) = (block for block in blocks("text") if block.startswith("Update"))
    command = ["-m", "costsim", "plan", "--device", "jetson-nano"]
    done = run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "80"})
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    # Scores may round differently elsewhere and move a channel; figures may move that little.
    number = re.compile(r"\d[\d,.]*\d|\d")
    for line in sample.splitlines():
        alike = [other for other in printed if number.sub("#", other) == number.sub("#", line)]
        assert line == "[...]" or any(
            [float(text.replace(",", "")) for text in number.findall(line)]
            == pytest.approx([float(t.replace(",", "")) for t in number.findall(other)], rel=0.05)
            for other in alike
        ), f"run the main job again: it no longer prints {line!r}"


def test_nothing_names_a_place_to_download_from() -> None:
    for name in ("README.md", "constraints.txt", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links\s+\S*/|pypi\.|pythonhosted", text), name


def test_the_folders_of_the_tests_are_the_wings() -> None:
    folders = {
        file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").glob("*/*.py")
    }
    assert folders - {"support", "campaign"} <= set(WINGS)


def test_no_test_module_imports_another() -> None:
    """What tests share is in `tests/support`: a test file can be read, moved and run alone."""
    taken = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for module in re.findall(
            r"^[ \t]*(?:from|import)[ \t]+((?:\w+\.)*test_\w+)",
            file.read_text("utf-8"),
            re.MULTILINE,
        )
    ]
    assert not taken
