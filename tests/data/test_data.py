"""Reading image folders and archives, and drawing few-shot tasks from them."""

import io
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from costsim.base.errors import InputError, Note
from costsim.data import Task, digits, open_images, sample_task
from costsim.data.decode import MAXIMUM_PIXELS, decode, to_levels

Files = Mapping[str, bytes]


def encoded(image: Image.Image, suffix: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    return stream.getvalue()


def picture(seed: int, height: int = 9, width: int = 7) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels))


def folder_of(classes: int = 4, images: int = 5, prefix: str = "", suffix: str = "png") -> Files:
    return {
        f"{prefix}class{c}/image{i}.{suffix}": picture(100 * c + i, 6 + c, 9 - i)
        for c in range(classes)
        for i in range(images)
    }


def write_folder(path: Path, files: Files) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, files: Files, mode: Literal["w", "w:gz", "w:xz"] = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in reversed(list(files.items())):  # the order in an archive must not matter
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


CONTAINERS: Mapping[str, Callable[[Path, Files], Path]] = {
    "folder": write_folder,
    "tar": write_tar,
    "tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
    "zip": write_zip,
}


def sample(path: Path | str, *, ways: int = 3, shots: int = 2, seed: int = 0, **more: Any) -> Task:
    return sample_task(
        open_images(path), ways=ways, shots=shots, seed=seed, **{"resolution": 8, **more}
    )


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "domain/", "./data/domain/"])
def test_every_container_gives_the_same_task(tmp_path: Path, kind: str, prefix: str) -> None:
    plain = sample(write_folder(tmp_path / "plain", folder_of()), queries=1)
    task = sample(CONTAINERS[kind](tmp_path / "packed", folder_of(prefix=prefix)), queries=1)
    assert task.paths == plain.paths
    assert task.query_paths == plain.query_paths
    assert task.class_names == plain.class_names
    np.testing.assert_array_equal(task.images, plain.images)
    np.testing.assert_array_equal(task.query_images, plain.query_images)


def test_the_task_is_what_its_names_say(tmp_path: Path) -> None:
    files = folder_of()
    task = sample(write_zip(tmp_path / "a.zip", files), queries=2)
    assert task.images.shape == (3 * 2, 3, 8, 8)
    assert task.query_images.shape == (3 * 2, 3, 8, 8)
    assert task.images.dtype == np.dtype(np.float32)
    assert task.labels.dtype == np.dtype(np.int64)
    assert task.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (task.ways, task.shots) == (3, 2)
    assert task.class_names == tuple(sorted(task.class_names))
    assert not set(task.paths) & set(task.query_paths)
    for image, label, path in zip(task.images, task.labels, task.paths, strict=True):
        assert path.startswith(task.class_names[label] + "/")
        expected = Image.open(io.BytesIO(files[path])).resize((8, 8), Image.Resampling.BILINEAR)
        pixels = np.asarray(expected, np.float32).transpose(2, 0, 1)
        np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        task.images[0] = 0


def test_the_seed_decides_and_queries_do_not(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", folder_of(8, 9))
    assert sample(path).paths == sample(path).paths
    assert len({sample(path, seed=seed).paths for seed in range(5)}) == 5
    assert sample(path, queries=4).paths == sample(path).paths


def test_the_draw_is_pinned() -> None:
    """The draw by definition: ranks of PCG64 doubles, classes first, then each class."""
    task = sample_task(digits(), ways=4, shots=2, seed=3, resolution=8)
    rng = np.random.default_rng(3)
    chosen = sorted(np.argsort(rng.random(10))[:4].tolist())
    assert task.class_names == tuple(str(digit) for digit in chosen)
    first = digits().classes[task.class_names[0]]
    drawn = np.argsort(rng.random(len(first)))[:2]
    assert task.paths[:2] == tuple(sorted(first[index] for index in drawn))


def test_one_channel_and_any_shape(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", folder_of())
    source = open_images(path)
    task = sample_task(source, ways=2, shots=1, seed=0, resolution=(5, 12), channels=1)
    assert task.images.shape == (2, 1, 5, 12)


def test_what_is_passed_over(tmp_path: Path) -> None:
    clutter = {
        ".hidden/image0.png": b"",
        "class0/.DS_Store": b"",
        "class0/._image0.png": b"no image",
        "class0/Thumbs.db": b"",
        "class1/notes.txt": b"",
        "README.md": b"",
        "__MACOSX/class0/._image0.png": b"",
    }
    for kind, write in CONTAINERS.items():
        with pytest.warns(Note, match="images that are hidden .* passed over: 1$"):
            source = open_images(write(tmp_path / kind, {**folder_of(suffix="PnG"), **clutter}))
        assert {name: len(images) for name, images in source.classes.items()} == {
            f"class{c}": 5 for c in range(4)
        }


def test_splits(tmp_path: Path) -> None:
    files = {**folder_of(prefix="top/train/"), **folder_of(2, prefix="top/val/")}
    for kind, write in CONTAINERS.items():
        path = write(tmp_path / kind, files)
        assert len(open_images(f"{path}::train").classes) == 4
        source = open_images(path, split="val")
        assert list(source.classes) == ["class0", "class1"]
        assert source.description == f"{kind}::val"
        with pytest.raises(InputError, match=r"choose one of train, val, as in .*::train"):
            open_images(path)
        with pytest.raises(InputError, match=r"no split 'test'; choose one of train, val"):
            open_images(path, split="test")
    flat = write_folder(tmp_path / "flat", folder_of())
    with pytest.raises(InputError, match="no split 'class0'; its folders are classes"):
        open_images(f"{flat}::class0")
    single = write_folder(tmp_path / "single", folder_of(prefix="train/"))
    assert len(open_images(single).classes) == 4


def test_hostile_names_write_nothing(tmp_path: Path) -> None:
    files = {**folder_of(), "../../evil/image.png": picture(1), "/etc/evil/image.png": picture(2)}
    inside = tmp_path / "inside"
    inside.mkdir()
    for name, write in CONTAINERS.items():
        if name == "folder":
            continue
        path = write(inside / name, files)
        with pytest.raises(InputError, match="different depths"):
            open_images(path)
        del_absolute = {n: d for n, d in files.items() if not n.startswith("/")}
        with pytest.warns(Note, match="images that are hidden .* passed over: 1$"):
            assert len(sample(write(inside / f"{name}2", del_absolute), ways=4).paths) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside"]
    assert all(p.is_file() for p in inside.iterdir())


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in folder_of(2, 2).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("class0/zlink.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert len(open_images(tmp_path / "a.tar").classes["class0"]) == 2


def test_a_link_to_a_parent_ends(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", folder_of(2, 2))
    (path / "class0" / "loop").symlink_to(path, target_is_directory=True)
    assert set(open_images(path).classes) == {"class0", "class1"}


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = open_images(write_folder(tmp_path / "images", folder_of()))
    sample_task(
        source, ways=2, shots=2, seed=0, resolution=4, progress=lambda *args: told.append(args)
    )
    assert told == [("reading images", done, 4) for done in range(1, 5)]


# What an image file may hold.


def gradient(height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width) * 10


def test_sixteen_bits_become_eight() -> None:
    wide = Image.fromarray(gradient().astype(np.uint16) * 257)
    for suffix in ("PNG", "TIFF"):
        np.testing.assert_array_equal(np.asarray(decode(encoded(wide, suffix), "x")), gradient())


def test_transparency_lies_over_white() -> None:
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[0, 0] = (255, 0, 0, 255)
    image = decode(encoded(Image.fromarray(colours)), "x")
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((1, 1)) == (255, 255, 255)
    palette = Image.fromarray(gradient()).convert("P")
    shown = decode(encoded(palette, transparency=0), "x")
    assert shown.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    image = Image.fromarray(gradient())
    image = (
        Image.fromarray(gradient().astype(np.uint16) * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    suffix = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    options = {"quality": 95} if suffix == "JPEG" else {}
    levels = to_levels(decode(encoded(image, suffix, **options), "x"), 4, 6, 3)
    assert levels.shape == (3, 4, 6)
    if mode not in ("1", "P"):  # which have fewer levels; JPEG is a little off
        np.testing.assert_allclose(levels[1].astype(float), gradient(), atol=13)


def test_the_exif_orientation_is_applied() -> None:
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by a quarter, clockwise
    upright = decode(encoded(image, exif=exif.tobytes()), "x")
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(gradient(), -1))


# What can be wrong.


def bomb() -> bytes:
    """A PNG of few bytes that claims more pixels than are allowed."""
    side = int(MAXIMUM_PIXELS**0.5) + 1

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


BAD_IMAGES: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is not an image that can be read"),
    "text": (b"hello", "is not an image that can be read"),
    "cut": (picture(0)[:-60], "damaged image"),
    "cut jpeg": (
        encoded(Image.fromarray(gradient(40, 6)), "JPEG")[:-80],
        "damaged image",
    ),
    "bomb": (bomb(), "pixels; at most"),
    "float": (encoded(Image.fromarray(gradient().astype(np.float32)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_bad_image_is_named(tmp_path: Path, bad: str, kind: str) -> None:
    data, message = BAD_IMAGES[bad]
    path = CONTAINERS[kind](tmp_path / "a", {**folder_of(2, 1), "class1/image0.png": data})
    with pytest.raises(InputError, match=message) as caught:
        sample(path, ways=2, shots=1)
    text = str(caught.value)
    assert text.startswith(f"{path}: class1/image0.png: ")
    assert "\n" not in text


def bad_paths(folder: Path) -> Mapping[str, tuple[Path, str]]:
    """What cannot be indexed, with the message."""
    packed = write_tar(folder / "good.tar.gz", folder_of(), "w:gz").read_bytes()
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    plain = write_tar(folder / "good.tar", folder_of()).read_bytes()
    second_header = bytearray(plain)
    second_header[1024 + 148] ^= 0xFF  # the checksum of the second member
    zipped = write_zip(folder / "good.zip", folder_of()).read_bytes()
    content: Mapping[str, tuple[bytes, str]] = {
        "empty file": (b"", "is an empty file"),
        "text": (b"hello " * 200, "is not a folder, tar, tar.gz or zip"),
        "cut tar.gz": (packed[: len(packed) // 2], "damaged or truncated"),
        "tar.gz without its end": (packed[:-4], "damaged or truncated"),
        "flipped tar.gz": (bytes(flipped), "damaged or truncated"),
        "gzip of text": (b"\x1f\x8b" + bytes(30), "damaged or truncated"),
        "tar cut in a member": (plain[:700], "damaged or truncated"),
        "damaged header": (bytes(second_header), "damaged or truncated"),
        "cut zip": (zipped[: len(zipped) // 2], "damaged or truncated"),
    }
    paths = {"missing": (folder / "missing", "cannot be read: No such file or directory")}
    for name, (data, message) in content.items():
        (folder / name).write_bytes(data)
        paths[name] = (folder / name, message)
    trees: Mapping[str, tuple[Files, str]] = {
        "empty folder": ({}, "is empty; images in the layout class/image are needed"),
        "no images": ({"class0/a.txt": b"", "b.csv": b""}, "no images among its 2 files"),
        "no class": ({"a.png": b"", "b.png": b""}, "a.png is in no class folder"),
        "mixed": ({"a.png": b"", "c/b.png": b""}, "a.png and c/b.png lie at different depths"),
    }
    for name, (files, message) in trees.items():
        paths[name] = (write_folder(folder / name, files), message)
        paths[f"{name} in a zip"] = (write_zip(folder / f"{name} in a zip", files), message)
        paths[f"{name} in a tar"] = (write_tar(folder / f"{name} in a tar", files), message)
    os.mkfifo(folder / "pipe")
    paths["pipe"] = (folder / "pipe", "is neither a folder nor a file")
    return paths


def test_bad_paths_get_one_line(tmp_path: Path) -> None:
    for name, (path, message) in bad_paths(tmp_path).items():
        with pytest.raises(InputError) as caught:
            open_images(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: "), name
        assert message in text, (name, text)
        assert "\n" not in text


def test_no_permission(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        path = write_folder(tmp_path / "images", folder_of())
        path.chmod(0)
        with pytest.raises(InputError, match="no permission"):
            open_images(path)
        path.chmod(0o700)
        return
    # root may read everything, so be somebody else for a while
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write_folder(Path(folder) / "images", folder_of())
        (path / "class1").chmod(0)
        locked = write_zip(Path(folder) / "a.zip", folder_of())
        locked.chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=r"images/class1: no permission to read it"):
                open_images(path)
            with pytest.raises(InputError, match=r"a\.zip: no permission to read it"):
                open_images(locked)
        finally:
            os.seteuid(0)


def test_zip_trouble_is_named(tmp_path: Path) -> None:
    files = folder_of(1, 1)
    path = write_zip(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    start = data.index(b"image0.png") + len(b"image0.png")
    damaged = bytearray(data)
    damaged[start + 20] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"class0/image0\.png: damaged or truncated"):
        sample(path, ways=1, shots=1)
    encrypted = bytearray(data)
    encrypted[6] |= 1
    encrypted[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(InputError, match=r"class0/image0\.png: is encrypted"):
        sample(path, ways=1, shots=1)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"ways": 0}, "ways is 0; at least 1 is needed"),
        ({"shots": 0}, "shots is 0; at least 1 is needed"),
        ({"queries": -1}, "queries is -1; at least 0 is needed"),
        ({"seed": -1}, "seed is -1; at least 0 is needed"),
        ({"resolution": 0}, "resolution is 0; at least 1 is needed"),
        ({"channels": 4}, "the model takes 4 input channels; images have 1 or 3"),
        ({"ways": 5}, "images: has 4 classes; 5 ways need as many"),
        ({"shots": 4, "queries": 2}, "has 5 images; 4 shots and 2 queries need 6"),
    ],
)
def test_numbers_that_make_no_task(tmp_path: Path, numbers: dict[str, int], message: str) -> None:
    path = write_folder(tmp_path / "images", folder_of())
    with pytest.raises(InputError, match=message):
        sample(path, **numbers)


def test_classes_with_fewer_images_than_shots_are_left_out_and_named(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", folder_of())
    with (
        pytest.warns(Note, match="left out are classes with fewer than 6 images: class0, class1"),
        pytest.raises(InputError, match="images: has 0 classes with 6 images or more"),
    ):
        sample(path, shots=6)


def test_odd_names_are_read_and_shown(tmp_path: Path) -> None:
    files = {"a\nb/ü 1.png": picture(0), "c/\udcff.png": picture(1)}
    for kind in ("folder", "tar"):
        task = sample(CONTAINERS[kind](tmp_path / kind, files), ways=2, shots=1)
        assert task.paths == ("a\\nb/ü 1.png", "c/\\udcff.png")


def test_an_image_that_has_gone(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", folder_of(1, 1))
    source = open_images(path)
    (path / "class0" / "image0.png").unlink()
    with pytest.raises(InputError, match=r"class0/image0\.png has gone"):
        sample_task(source, ways=1, shots=1, seed=0, resolution=8)


# Real images.


def test_the_digits_of_scikit_learn() -> None:
    task = sample_task(digits(), ways=10, shots=5, seed=0, resolution=32)
    assert task.class_names == tuple("0123456789")
    assert task.images.shape == (50, 3, 32, 32)
    bunch = load_digits()
    for name, image in digits().read([f"{bunch.target[i]}/{i:04d}" for i in (0, 900, 1796)]):
        index = int(name.partition("/")[2])
        np.testing.assert_allclose(np.asarray(image) / 255 * 16, bunch.images[index], atol=0.04)
        assert name in digits().classes[str(bunch.target[index])]
    assert sum(map(len, digits().classes.values())) == len(bunch.target)
    assert -1 <= task.images.min() < -0.9
    assert 0.9 < task.images.max() <= 1
    # handwriting, not noise: a class is nearer to itself than to the others
    flat = task.images.reshape(10, 5, -1)
    means = flat.mean(1)
    nearest = ((flat[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    assert (nearest == np.arange(10)[:, None]).mean() > 0.8


@pytest.mark.parametrize(
    ("pack", "classes"),
    [
        ("traffic_sign.tar.gz", 43),
        ("omniglot.tar.gz", 140),
        ("dtd.tar.gz", 10),
        ("quickdraw.tar.gz", 40),
        ("vgg_flower.tar.gz", 12),
        pytest.param("mini_imagenet.tar.gz::train", 64, marks=pytest.mark.slow),
        ("mini_imagenet.tar.gz::val", 16),
        pytest.param("mini_imagenet.tar.gz::test", 20, marks=pytest.mark.slow),
    ],
)
def test_real_packs(shared: Path, pack: str, classes: int) -> None:
    source = open_images(f"{shared}/data/{pack}")
    assert len(source.classes) == classes
    task = sample_task(source, ways=5, shots=3, seed=1, resolution=32)
    assert task.images.shape == (15, 3, 32, 32)
    assert np.isfinite(task.images).all()
    assert np.abs(task.images).max() <= 1
    assert task.images.reshape(15, -1).std(1).min() > 0  # real pictures, none of one colour


def test_a_real_pack_as_a_folder_and_a_zip(shared: Path, tmp_path: Path) -> None:
    pack = shared / "data" / "traffic_sign.tar.gz"
    with tarfile.open(pack) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}
    tasks = [
        sample(path, ways=10, resolution=32)
        for path in (
            pack,
            write_folder(tmp_path / "folder", files),
            write_zip(tmp_path / "a.zip", files),
        )
    ]
    for task in tasks[1:]:
        assert task.paths == tasks[0].paths
        np.testing.assert_array_equal(task.images, tasks[0].images)
