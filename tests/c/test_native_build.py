"""Native kernels: which instruction set and compiler, and which built library is trusted."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from costsim.base.errors import InputError, Note
from costsim.c.emulation.toolchain import Compiler, host_compiler
from costsim.c.native import build
from costsim.c.native.build import build_kernels, cache_folder, is_private, kernel_sources
from costsim.c.native.instruction_sets import INSTRUCTION_SETS, InstructionSet, instruction_set
from costsim.c.native.library import Library, load_library
from costsim.c.native.record import Flag, Kind, Place, Record
from costsim.c.native.weights import PackedWeights

SCALAR = InstructionSet("none", "any", 4, frozenset())
"""Any machine's, for tests of the cache."""

FEW = {"few.c": b"int few(void) { return LANES; }", "few.h": b""}
"""Kernels that compile in no time: the cache asks for nothing of what is in them."""


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    """A cache of the test's own, and builds that take no time."""
    try:
        host_compiler()
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "kernel_sources", lambda: FEW)
    return tmp_path / "cache" / "costsim" / "native"


@pytest.mark.parametrize(
    ("machine", "features", "name"),
    [
        ("x86_64", {"avx2", "fma"}, "avx2"),
        ("AMD64", {"avx2", "fma", "avx512f"}, "avx2"),
        ("x86_64", INSTRUCTION_SETS[0].features, "avx512"),
        ("x86_64", {"avx2"}, "sse2"),
        ("x86_64", set(), "sse2"),
        ("aarch64", set(), "neon"),
        ("arm64", set(), "neon"),
    ],
)
def test_the_widest_instruction_set_that_a_machine_has(machine, features, name):
    assert instruction_set(machine, features).name == name


def test_a_machine_that_there_is_none_for_is_told_in_one_line():
    with pytest.raises(InputError, match=r"no native kernels for a machine 'riscv64', but for"):
        instruction_set("riscv64", set())


def test_what_was_built_is_found_again_and_another_content_is_built_anew(quickly, monkeypatch):
    first = build_kernels(SCALAR)
    before = first.stat().st_mtime_ns
    assert build_kernels(SCALAR) == first
    assert first.stat().st_mtime_ns == before
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert stat.S_IMODE(quickly.stat().st_mode) == 0o700
    assert ctypes.CDLL(str(first)).few() == SCALAR.lanes
    sources = {**FEW, "more.h": b"/* more */"}
    monkeypatch.setattr(build, "kernel_sources", lambda: sources)
    assert build_kernels(SCALAR) != first
    assert not [entry for entry in quickly.iterdir() if not entry.name.startswith("kernels-none-")]


def test_a_library_that_others_could_have_written_is_not_loaded(quickly):
    path = build_kernels(SCALAR)
    path.write_bytes(b"no library")
    path.chmod(0o666)
    assert build_kernels(SCALAR) == path
    assert path.read_bytes() != b"no library"
    path.unlink()
    elsewhere = quickly.parent / "elsewhere.so"
    elsewhere.write_bytes(b"no library")
    path.symlink_to(elsewhere)
    build_kernels(SCALAR)
    assert not path.is_symlink()
    assert elsewhere.read_bytes() == b"no library"


@pytest.mark.usefixtures("quickly")
def test_a_library_that_is_not_whole_is_built_again():
    """As a full disk or a power cut leaves one; to load it would end the process."""
    path = build_kernels(SCALAR)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1] + b"\0\0"):
        path.write_bytes(damaged)
        assert build_kernels(SCALAR) == path
        assert path.read_bytes() != damaged
    path.with_name(f"{path.name}.sha256").unlink()
    before = path.stat().st_mtime_ns
    assert build_kernels(SCALAR) == path
    assert path.stat().st_mtime_ns != before


def test_a_folder_that_others_can_write_to_is_not_used(quickly):
    quickly.mkdir(parents=True)
    quickly.chmod(0o777)
    with pytest.warns(Note, match="others can write to it"):
        found = cache_folder()
    assert found != quickly
    assert is_private(found.lstat())


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_said_and_kernels_are_built_all_the_same(quickly):
    quickly.parent.mkdir(parents=True)
    quickly.parent.chmod(0o500)
    try:
        with pytest.warns(Note, match="nothing can be kept in"):
            assert build_kernels(SCALAR).is_file()
    finally:
        quickly.parent.chmod(0o700)


def test_a_cache_that_is_a_file_is_said_and_kernels_are_built_all_the_same(quickly):
    quickly.parent.mkdir(parents=True)
    quickly.write_text("a file")
    with pytest.warns(Note, match="nothing can be kept in"):
        assert build_kernels(SCALAR).is_file()


@pytest.mark.usefixtures("quickly")
def test_a_compiler_that_is_missing_or_refuses_is_told_in_one_line(monkeypatch):
    broken = Compiler("cc", "", (sys.executable, "-c", "import sys; sys.exit('error: no room')"))
    with pytest.raises(InputError, match="cannot compile the native kernels: error: no room"):
        build_kernels(SCALAR, broken)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr("costsim.c.emulation.toolchain._command", lambda _name: None)
    with pytest.raises(InputError, match="no C compiler for this machine was found"):
        build_kernels(SCALAR)


def test_two_processes_that_build_at_once_end_with_one_library(quickly):
    code = (
        f"from costsim.c.native import build; build.kernel_sources = lambda: {FEW}\n"
        "from costsim.c.native.instruction_sets import InstructionSet\n"
        "print(build.build_kernels(InstructionSet('none', 'any', 4, frozenset())))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    (path,) = paths
    assert {entry.name for entry in quickly.iterdir()} == {
        Path(path).name,
        f"{Path(path).name}.sha256",
    }


@pytest.fixture
def library():
    try:
        return load_library()
    except InputError as error:
        pytest.skip(str(error))


def product(library: Library, x, weight, flags=Flag(0)) -> np.ndarray:  # noqa: B008
    """`x` times the transposed weight, by the kernel of a product."""
    weights = PackedWeights(library, {"w": weight})
    rows, depth = x.shape
    y = np.full((rows, len(weight)), np.nan, np.float32)
    record = Record(kind=Kind.PRODUCT, flags=flags, rows=rows, columns=len(weight), depth=depth)
    for place, address in (
        (Place.X, x.ctypes.data),
        (Place.WEIGHTS, weights.transposed("w")),
        (Place.Y, y.ctypes.data),
    ):
        record.at[place] = address
        record.present |= 1 << place
        record.absolute |= 1 << place
    library.run(ctypes.addressof(record), 1, None, None, 1)
    return y


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 16, 24, 31, 32, 33, 40, 48, 100])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 12, 13])
def test_products_of_all_sizes_write_their_own_and_nothing_else(library, rows, columns):
    generator = np.random.default_rng(rows * 1000 + columns)
    x = generator.standard_normal((rows, 11), np.float32)
    weight = generator.standard_normal((columns, 11), np.float32)
    assert np.allclose(product(library, x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)


def test_the_source_is_right_for_vectors_that_this_machine_does_not_take(tmp_path):
    """As its compiler reads it; by `make slow` what it computes, and other machines."""
    try:
        compiler = host_compiler()
    except InputError as error:
        pytest.skip(str(error))
    for file, content in kernel_sources().items():
        (tmp_path / file).write_bytes(content)
    sources = [file for file in kernel_sources() if file.endswith(".c")]
    command = [*compiler.command, *build.FLAGS, "-DLANES=4", "-Wno-psabi", "-Werror"]
    command += ["-fsyntax-only", *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [4, 8])
def test_vectors_of_all_widths_compute_the_same(lanes, monkeypatch):
    """Narrower than the machine's too: the source is one for all."""
    own = load_library().target
    target = InstructionSet(f"{own.name}-{lanes}", own.machine, lanes, own.features, own.flags)
    wide = load_library(target)
    from costsim.run.native import self_check

    monkeypatch.setattr("costsim.run.native.executor.load_library", lambda: wide)
    assert self_check.disagreement() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_the_kernels_compile_for_every_instruction_set(name, tmp_path):
    """By zig's compiler, which makes code for other machines than this one."""
    pytest.importorskip("ziglang")
    target = next(one for one in INSTRUCTION_SETS if one.name == name)
    for file, content in kernel_sources().items():
        (tmp_path / file).write_bytes(content)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{target.machine}-linux-gnu"]
    command += [*build.FLAGS, *target.flags, f"-DLANES={target.lanes}", "-Werror"]
    sources = [file for file in kernel_sources() if file.endswith(".c")]
    command += [*sources, *build.LIBRARIES, "-o", "out.so"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
