"""Fixtures shared by all tests, and other circumstances to run them in.

No test may hang on a processor's rounding, on the order of tests or on speed. To look for one that
does (`make sweep`): `OMP_NUM_THREADS=2`; `ATEN_CPU_CAPABILITY=default` and
`ONEDNN_MAX_CPU_ISA=SSE41`, which take the kernels of older processors; `COSTSIM_TEST_ONEDNN=off`,
which takes PyTorch's own; and `COSTSIM_TEST_ORDER=SEED`, which shuffles the tests.
"""

import atexit
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# One worker a core already: threads of torch and BLAS would only fight. Read when they load.
for _threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

# Tests start the library in hundreds of processes; each would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a person has named on command lines is kept in their home; tests have one of their own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="costsim-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# A shell ignores Ctrl-C for what it starts in the background, and processes inherit that; tests
# interrupt processes of theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

# For `mutants.py`: a failure is all it wants, and the smallest one can take minutes to find.
settings.register_profile(
    "mutants", parent=settings.default, phases=(Phase.explicit, Phase.generate)
)


if os.environ.get("COSTSIM_TEST_ONEDNN") == "off":
    import torch

    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a random order, the same in every worker, where a seed for it is given."""
    if seed := os.environ.get("COSTSIM_TEST_ORDER"):
        random.Random(int(seed)).shuffle(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is imported or collected is garbage: to look for some is a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: to look through it for garbage again and
    again would take a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the development images and weights (`data/`, `weights/`); never shipped."""
    folder = Path(os.environ.get("COSTSIM_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("the development data is not on this machine (set COSTSIM_SHARED)")
    return folder
