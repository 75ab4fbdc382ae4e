"""The ImageFolder layout: `class/image`, in a folder or an archive."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from costsim.base.errors import InputError, note, shortened
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.data.containers import Container, open_container
from costsim.data.decode import MAXIMUM_PIXELS, decode, pixels_of
from costsim.data.threads import threaded_map

EXTENSIONS = (
    ".apng",
    ".bmp",
    ".dib",
    ".gif",
    ".jfif",
    ".jif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".pjp",
    ".pjpeg",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""Of files that are taken for images; which format it is, the content says."""

_DOCUMENTS = frozenset(
    {".csv", ".html", ".json", ".md", ".pdf", ".rst", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
)
"""Of files that nobody takes for images; that they are passed over needs no word."""

_SAID = 5
"""Classes or endings that a note lists."""

_CHARACTER = re.compile(r"character\d+", re.ASCII)


@dataclass(frozen=True)
class ImageFolder:
    """Images by class, indexed once; `prefix` is what precedes `class/image` in a name."""

    container: Container
    description: str
    classes: Mapping[str, tuple[str, ...]]
    prefix: str = field(default="", repr=False)

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """Decode these images in one forward pass over the container.

        Raises `InputError` naming the image that is damaged.
        """
        wanted = {f"{self.prefix}{name}" for name in names}

        def decoded(file: tuple[str, bytes]) -> tuple[str, Image.Image]:
            name, data = file
            return name.removeprefix(self.prefix), decode(data, self.container.where(name))

        return threaded_map(
            decoded,
            self.container.read(wanted),
            size_of=lambda file: pixels_of(file[1]),
            most=MAXIMUM_PIXELS,
        )


def open_images(
    path: str | Path, split: str | None = None, progress: Progress | None = None
) -> ImageFolder:
    """Index the images at `path`: a folder, tar, tar.gz or zip; no image is decoded yet.

    The layout is `class/image`, under any number of enclosing folders. Where several folders
    each hold classes (`train`, `val`, `test`), `split` names one, or the path ends in
    `::train`. Omniglot's own archives, `alphabet/character01/image`, have a class for each
    `alphabet/character01`. Hidden files and what systems add (`.DS_Store`, `__MACOSX`, `Thumbs.db`)
    are passed over; of images that are hidden, of files with other endings than `EXTENSIONS` that
    are no documents either, and of classes that have no others, a `Note` says so.

    Raises `InputError` for a missing, unreadable, damaged or empty `path`, one without images,
    images at different depths, and a split that is missing or not chosen.
    """
    path, split = path_and_split(path, split)
    container = open_container(path)
    found = container.names(progress)
    names = sorted(found.files)
    images = [name for name in names if _is_image(name)]
    hidden = sum(_is_image(name) for name in found.hidden)
    if not names:
        told = "is empty"
        if found.hidden:
            told = f"all its {len(found.hidden)} files are hidden (a name begins with a dot)"
        raise InputError(f"{path}: {told}; images in the layout class/image are needed")
    if not images:
        raise InputError(
            f"{path}: no images among its {counted(len(names), 'file')} ({_endings(names)}); "
            f"read are {', '.join(EXTENSIONS)}"
        )
    prefix = _common_prefix(images)
    if split is not None:
        chosen = f"{prefix}{split.strip('/')}/"
        kept = [name for name in images if name.startswith(chosen)]
        if not kept or _depth(kept[0], chosen) == 0:
            raise InputError(f"{path}: has no split {split!r}; {_choices(images, prefix)}")
        images, prefix = kept, _common_prefix(kept, chosen)
    by_depth = {_depth(name, prefix): name for name in reversed(images)}
    if len(by_depth) > 1:
        shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
        raise InputError(
            f"{path}: {shallow} and {deep} lie at different depths; class/image is needed"
        )
    (depth,) = by_depth
    if depth == 0:
        raise InputError(f"{path}: {images[0]} is in no class folder; class/image is needed")
    if depth > 1 and not _is_omniglot(images, prefix):
        raise InputError(
            f"{path}: several folders hold classes; {_choices(images, prefix)}, "
            f"as in {path}::{_first_folders(images, prefix)[0]}"
        )
    _say_left_out(path, [name for name in names if name.startswith(prefix)], hidden, prefix, depth)
    classes: dict[str, list[str]] = {}
    for name in images:
        relative = name.removeprefix(prefix)
        classes.setdefault(relative.rpartition("/")[0], []).append(relative)
    return ImageFolder(
        container,
        f"{path.name}::{split}" if split else path.name,
        {name: tuple(members) for name, members in sorted(classes.items())},
        prefix,
    )


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _endings(names: Sequence[str]) -> str:
    """`10 .heic, 2 .txt, 1 without an ending`, the most frequent first."""
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names)
    told = [
        f"{count} {shortened(ending, 20) or 'without an ending'}"
        for ending, count in counts.most_common(_SAID)
    ]
    return ", ".join([*told, "others"] if len(counts) > _SAID else told)


def _say_left_out(path: Path, names: Sequence[str], hidden: int, prefix: str, depth: int) -> None:
    """Notes on what is passed over among `names`: whole classes, single files, hidden images."""
    others = [
        name
        for name in names
        if not _is_image(name) and PurePosixPath(name).suffix.lower() not in _DOCUMENTS
    ]

    def label(name: str) -> str:
        return "/".join(name.removeprefix(prefix).split("/")[:depth])

    with_images = {label(name) for name in names if _is_image(name)}
    lost: dict[str, list[str]] = {}
    for name in others:
        if _depth(name, prefix) >= depth and label(name) not in with_images:
            lost.setdefault(label(name), []).append(name)
    read = f"read are {', '.join(EXTENSIONS)}"
    if lost:
        told = [f"{label} ({_endings(members)})" for label, members in list(lost.items())[:_SAID]]
        more = f" and {len(lost) - _SAID} more" if len(lost) > _SAID else ""
        kind = "class is" if len(lost) == 1 else "classes are"
        note(
            f"{path}: {len(lost)} {kind} left out, without a file of a known ending: "
            f"{', '.join(told)}{more}; {read}"
        )
    elif others:
        note(f"{path}: files passed over: {_endings(others)}; {read}")
    if hidden:
        note(f"{path}: images that are hidden (a name begins with a dot) are passed over: {hidden}")


def path_and_split(path: str | Path, split: str | None) -> tuple[Path, str | None]:
    """What stands before `::` and after it, where no split is given; raises `InputError`."""
    text = str(path)
    if split is None and "::" in text and not Path(text).exists():
        text, _, split = text.rpartition("::")
        if not split:
            raise InputError(f"{path}: names no split after '::'")
    return Path(text), split


def _common_prefix(images: Sequence[str], prefix: str = "") -> str:
    """The enclosing folders that all images share, their class folder excepted."""
    while True:
        folders = {name.removeprefix(prefix).partition("/")[0] for name in images}
        if len(folders) > 1 or min(_depth(name, prefix) for name in images) < 2:
            return prefix
        prefix = f"{prefix}{folders.pop()}/"


def _is_omniglot(images: Sequence[str], prefix: str) -> bool:
    """Whether the layout is alphabet/character/image, as in Omniglot (Lake et al., 2015)."""
    return all(
        len(parts := name.removeprefix(prefix).split("/")) == 3 and _CHARACTER.fullmatch(parts[1])
        for name in images
    )


def _depth(name: str, prefix: str) -> int:
    return name.removeprefix(prefix).count("/")


def _first_folders(images: Sequence[str], prefix: str) -> list[str]:
    return sorted({name.removeprefix(prefix).partition("/")[0] for name in images})


def _choices(images: Sequence[str], prefix: str) -> str:
    if all(_depth(name, prefix) < 2 for name in images):
        return "its folders are classes"
    names = _first_folders(images, prefix)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"choose one of {', '.join(names[:6])}{more}"
