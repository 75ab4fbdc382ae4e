"""Images that belong together: frames of one object, of which some must not test the others.

The German traffic signs (Stallkamp et al., "The German Traffic Sign Recognition Benchmark",
IJCNN 2011) come in tracks, up to 30 photographs of one and the same sign from a passing car, named
`track_frame`. Support and query images of one track are nearly the same image.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

_TRACK_FRAME = re.compile(r"(\d+)_(\d+)", re.ASCII)


def find_tracks(classes: Mapping[str, Sequence[str]]) -> Mapping[str, str] | None:
    """The track of each image, where the names are `track_frame`; None where they are not.

    Taken for tracks are names of two numbers, in all classes, of which the first tells several
    groups within most classes apart (a number that is the same for a whole class is the class
    itself, as in Omniglot's files) and is shared by at least two images of some class.
    """
    tracks: dict[str, str] = {}
    several, shared = 0, False
    for label, names in classes.items():
        found: Counter[str] = Counter()
        for name in names:
            match = _TRACK_FRAME.fullmatch(PurePosixPath(name).stem)
            if match is None:
                return None
            tracks[name] = f"{label}/{match[1]}"
            found[tracks[name]] += 1
        several += len(found) > 1
        shared = shared or max(found.values(), default=0) > 1
    return tracks if shared and 2 * several > len(classes) else None
