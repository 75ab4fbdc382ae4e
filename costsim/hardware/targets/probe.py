"""A first question to a device: what it is, and which costsim answers."""

from collections.abc import Mapping
from typing import Any

import costsim
from costsim.base.progress import Progress
from costsim.hardware.targets.job import RunOptions

RUNNER = "costsim.hardware.targets.probe:describe"
"""For `KernelJob`."""


def describe(batch: Mapping[str, Any], options: RunOptions, _report: Progress) -> dict[str, Any]:
    """The machine, its versions, where costsim was loaded from; `batch` comes back as it is."""
    import torch

    from costsim.hardware.results.machine import describe_machine, describe_versions

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return {
        "machine": describe_machine(torch.get_num_threads()).model_dump(mode="json"),
        "versions": describe_versions(),
        "package": str(costsim.__file__),
        "batch": dict(batch),
    }
