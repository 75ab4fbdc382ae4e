"""The folder as an engineer takes it: make check, CMake, C++, two models in one program."""

import shutil
import subprocess
from pathlib import Path

import pytest
from by_default import by_default
from emitting import compiler
from training import MODEL, write_network

from costsim.base.errors import InputError
from costsim.c.emission.prefix import check_prefix
from costsim.cli import main

PREFIX = "bird"


def done(command: list[str], folder: Path) -> str:
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return found.stdout


def needs(program: str) -> str:
    if (found := shutil.which(program)) is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models: one in floats by class means with a prefix, one in 8 bits by its logits."""
    place = tmp_path_factory.mktemp("project")
    write_network(place)
    patched = pytest.MonkeyPatch()
    patched.chdir(place)
    patched.syspath_prepend(str(place))
    for name, more in (
        (PREFIX, ("--bits", "32", "--model", "zoo:tiny")),
        ("costsim", ("--model", MODEL, "--loss", "cross_entropy")),
    ):
        plan = place / f"{name}.json"
        asked = ["plan", "--device", "stm32h743", "--resolution", "16", "--ways", "3"]
        asked += ["--shots", "2", "--solver", "greedy", "--memory", "256KiB", *more]
        assert main([*asked, "--out", str(plan)]) == 0
        export = ["export", str(plan), "--prefix", name, "--out", str(place / name)]
        assert main(export) == 0
        assert main(export) == 0  # in the place of the earlier one
    yield place
    patched.undo()


@pytest.mark.parametrize("name", by_default([PREFIX, "costsim"], [PREFIX]))
def test_make_check_says_that_a_build_computes_what_it_should(folders, name, tmp_path):
    folder = shutil.copytree(folders / name, tmp_path / name)
    needs("make")
    told = done(["make", "check", f"CC={' '.join(compiler())}"], folder)
    assert "FAILED" not in told
    assert told.count(" ok\n") >= 8
    model = folder / f"{name}_model.c"
    source = model.read_text()
    wrong = source.replace("costsim_loss = costsim", "costsim_loss = -costsim").replace(
        "bird_loss = costsim", "bird_loss = -costsim"
    )
    assert wrong != source
    model.write_text(wrong)
    again = subprocess.run(
        ["make", "check"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert again.returncode != 0
    assert "the loss of a step" in again.stdout
    assert "FAILED" in again.stdout


MAIN = """
#include "bird_model.h"
#include "costsim_model.h"
static_assert(BIRD_BY_CLASS_MEANS == 1 && COSTSIM_BY_CLASS_MEANS == 0, "each has its own");
static float image[BIRD_INPUTS > COSTSIM_INPUTS ? BIRD_INPUTS : COSTSIM_INPUTS];
int main() {
    int32_t label = -1, other = -1;
    float score, loss;
    bird_init();
    costsim_init();
    for (int32_t i = 0; i < 2; i++) {
        image[7] = 1.0f - 2.0f * i;
        if (i == 0 && bird_begin_means(2)) return 1;
        bird_add_to_means(image, &i);
    }
    bird_end_means();
    if (bird_classify(image, &label, &score) || label != 1) return 2;
    loss = bird_train_step(image, &label);
    if (!(loss > 0) || bird_steps != 1 || costsim_steps != 0) return 3;
    if (costsim_classify(image, &other, &score) || other < 0) return 4;
    loss = costsim_train_step(image, &other);
    return loss > 0 && costsim_steps == 1 ? 0 : 5;
}
"""

CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(two C CXX)
add_subdirectory(bird)
add_subdirectory(costsim)
add_executable(two main.cpp)
target_link_libraries(two bird_model costsim_model)
"""


def test_two_models_are_one_program_in_cpp_by_cmake(folders, tmp_path):
    cmake = needs("cmake")
    needs("c++")
    for name in (PREFIX, "costsim"):
        shutil.copytree(folders / name, tmp_path / name)
    (tmp_path / "main.cpp").write_text(MAIN)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    done([cmake, "-S", ".", "-B", "build"], tmp_path)
    done([cmake, "--build", "build"], tmp_path)
    done([str(tmp_path / "build" / "two")], tmp_path)
    kernels = [(tmp_path / name / "costsim_kernels.c").read_bytes() for name in ("bird", "costsim")]
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize("name", [PREFIX, "costsim"])
def test_all_files_of_a_folder_compile_beside_a_main(folders, name, tmp_path):
    """As an Arduino sketch has it, and whoever gives the compiler `*.c`."""
    folder = shutil.copytree(folders / name, tmp_path / name)
    (folder / "main.c").write_text(
        f'#include "{name}_model.h"\nint main(void) {{ {name}_init(); return 0; }}\n'
    )
    sources = sorted(file.name for file in folder.glob("*.c"))
    done([*compiler(), "-std=c99", "-pedantic-errors", *sources, "-lm", "-o", "program"], folder)
    done([str(folder / "program")], folder)


def test_all_names_of_a_prefixed_model_are_its_own_and_ascii(folders):
    folder = folders / PREFIX
    for file in folder.iterdir():
        content = file.read_bytes()
        if file.suffix in (".c", ".h"):
            assert content.isascii(), file.name
    header = (folder / "bird_model.h").read_text()
    assert "costsim_" not in header
    assert "COSTSIM_" not in header
    assert "#define BIRD_VERSION" in header
    assert "#define BIRD_MODEL_DIGEST 0x" in header
    assert 'section(".bird_arena")' in (folder / "bird_model.c").read_text()


@pytest.mark.parametrize("prefix", ["", "9a", "A", "a-b", "costsim_x", "x" * 32])
def test_a_prefix_that_no_name_begins_with_is_refused(prefix):
    with pytest.raises(InputError, match=r"prefix .*: allowed are lower-case"):
        check_prefix(prefix)
