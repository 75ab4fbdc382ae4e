"""What goes to a device: a plan as a job, and this package as a zip."""

import io
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from costsim.hardware.targets.job import WEIGHTS_NAME, PlanJob, RunOptions
from costsim.solving.planfile import PlanFile

NEEDED_PYTHON = (3, 11)
NEEDED_MODULES = {
    "torch": "torch",
    "numpy": "numpy",
    "networkx": "networkx",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
}
"""What a run imports that is not shipped, and what its package is called."""

_PARTS = ("costsim", "costsim.solvers", "costsim.devices")


def package_zip() -> bytes:
    """The sources of the running costsim, the same bytes every time."""
    files: dict[str, bytes] = {}
    for name in _PARTS:
        for place in import_module(name).__path__:
            for file in Path(place).rglob("*"):
                inside = file.relative_to(place)
                if file.is_file() and "__pycache__" not in inside.parts:
                    files[f"{name.replace('.', '/')}/{inside.as_posix()}"] = file.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def plan_job(
    plan: PlanFile,
    folder: Path,
    *,
    source: str = "plan",
    weights: Path | None = None,
    options: RunOptions | None = None,
) -> PlanJob:
    """The job of measuring `plan`: its model loaded here, its tensors written into `folder`.

    `weights` replaces where the plan says they are. Raises `InputError`, naming `source`, for a
    plan without an answer and for a model that is not the plan's.
    """
    from costsim.learning.training.base_model import load_subject_of
    from costsim.learning.training.tensorfile import write_tensors

    subject = load_subject_of(plan, source, weights)
    path = folder / WEIGHTS_NAME
    write_tensors(path, subject.tensors)
    # Paths of this machine mean nothing on another.
    shipped = replace(plan, model=plan.model.model_copy(update={"weights": None}))
    return PlanJob(shipped, subject.graph, path, options or RunOptions(), subject.weights)
