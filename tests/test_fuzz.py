"""Whatever is in a file, a command that reads it ends: with an answer, or refused in one line."""

import hashlib
import io
import random
import re
from pathlib import Path

import pytest
from damaging import LIMIT_S, NETWORK, STUDY, clear_away, fuzz, kinds_of
from fuzzing import Kind, Worker, mutated
from PIL import Image

from costsim.base.errors import InputError
from costsim.data.decode import decode


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, ...]:
    return kinds_of(tmp_path_factory.mktemp("valid"))


def test_damaged_files(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    fuzz(kinds, tmp_path, 300)


@pytest.mark.slow
def test_many_damaged_files(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    fuzz(kinds, tmp_path, 20_000)


def test_the_valid_files_are_read(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    """Else the damaged ones would prove nothing: each command comes past its file."""
    (tmp_path / "net_of_the_fuzz_test.py").write_text(NETWORK)
    (tmp_path / "study.yaml").write_bytes(STUDY)
    ends = {
        "device.yaml": "",
        "study.yaml": "",
        "store.sqlite": "",
        "plan.json": "--on local: allowed is",
        "compare.yaml": "settings.criterion: criterion 'nothing' is unknown",
        "patch.safetensors": "model 'nothing' is unknown",
        "program.pt2": "was exported for images of 8x8",
    }
    store = next(kind for kind in kinds if kind.name == "store.sqlite")
    (tmp_path / "study.sqlite").write_bytes(store.content)
    with Worker(tmp_path, LIMIT_S) as worker:
        for kind in kinds:
            (tmp_path / kind.name).write_bytes(kind.content)
            for arguments in kind.arguments:
                found = worker.run([kind.name if word == "FILE" else word for word in arguments])
                wanted = ends.get(kind.name, "resolution is 9; the model says")
                assert found.status == (2 if wanted else 0), found
                assert wanted in found.stderr, found
                clear_away(tmp_path)


def test_damaged_images() -> None:
    """Decoded or refused; `decode` is what all commands give their images to."""
    for form in ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP"):
        file = io.BytesIO()
        Image.effect_noise((40, 30), 50).convert("RGB").save(file, form)
        for seed in range(40):
            data = mutated(file.getvalue(), random.Random(f"{form} {seed}"))
            told = hashlib.sha256(data).hexdigest()[:8]
            try:
                image = decode(data, told)
            except InputError as error:
                assert re.fullmatch(f"{told}: .+", str(error))  # noqa: PT017
            else:
                assert image.mode in ("L", "RGB")
