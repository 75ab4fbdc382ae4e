"""What the benchmarks of the solvers share: networks, and their scores on real images."""

import os
from pathlib import Path

from costsim.models.networks.graph import architecture_graph
from costsim.problem.importance import Importance, inspected_layers

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SHARED = Path(os.environ.get("COSTSIM_SHARED", Path(__file__).parents[2] / "shared"))


def scores(name: str, images: Path | None, both: bool, biases: bool = False) -> Importance:
    """Fisher scores of the inspected layers of a network, as the plan command computes them."""
    import torch

    from costsim.data import digits, open_images, sample_task
    from costsim.models.networks.build import build
    from costsim.run.criteria import CRITERIA

    source = digits() if images is None else open_images(images)
    task = sample_task(source, ways=10, shots=5, seed=0, resolution=128)
    return CRITERIA["fisher"].score(
        architecture_graph(name, batch=len(task.labels)),
        dict(build(name).state_dict()),
        torch.tensor(task.images),
        torch.tensor(task.labels),
        layers=inspected_layers(architecture_graph(name)),
        axes=("output", *(("input",) if both else ()), *(("bias",) if biases else ())),
    )
