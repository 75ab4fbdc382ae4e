"""Which Python on a host can do jobs, and what keeps one from it."""

import json
import shlex
from importlib.metadata import version as metadata_version

from costsim.base.errors import shown
from costsim.hardware.ssh.connection import Connection
from costsim.hardware.ssh.shipment import NEEDED_MODULES, NEEDED_PYTHON

# Written for any Python there may be, old ones included.
_CHECK = """
import json, sys
missing = []
if sys.version_info >= (3, 4):
    from importlib.util import find_spec
    missing = [name for name in %r if find_spec(name) is None]
torch = None
if sys.version_info >= (3, 8) and "torch" not in missing:
    from importlib.metadata import version
    torch = version("torch")
print(json.dumps([list(sys.version_info[:3]), missing, sys.platform, torch]))
"""


async def find_python(connection: Connection, wanted: str | None) -> str:
    """A Python as a word of the shell there: the `wanted` one, or `python3` or `python`.

    Raises `TargetError` (`missing`) for one that is too old or lacks a package; warns where its
    PyTorch is another than here.
    """
    check = shlex.quote(_CHECK % (tuple(NEEDED_MODULES),))
    for python in [shlex.quote(wanted)] if wanted else ["python3", "python"]:
        done = await connection.command(f"{python} -c {check}")
        if done.status == 0:
            break
    else:
        named = repr(wanted) if wanted else "neither python3 nor python"
        told = "cannot be run" if wanted else "can be run"
        raise connection.error(
            "missing", f"{named} {told} there; name a Python with ?python=PATH ({done.last})"
        )
    try:
        version, missing, system, torch = json.loads(done.stdout)
        version = tuple(map(int, version))
        told = ", ".join(NEEDED_MODULES[name] for name in missing)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise connection.error("missing", f"{wanted or python} there is no Python") from error
    running = f"{wanted or python} there is Python {'.'.join(map(str, version))}"
    if version < NEEDED_PYTHON:
        least = ".".join(map(str, NEEDED_PYTHON))
        raise connection.error(
            "missing", f"{running}; at least {least} is needed: name another with ?python=PATH"
        )
    if told:
        raise connection.error(
            "missing",
            f"{running} without {told}: install what is missing there, or name another "
            "Python with ?python=PATH",
        )
    if system == "win32":
        raise connection.error("missing", f"{running} on Windows; a POSIX system is needed")
    if str(torch).split(".")[:2] != (here := metadata_version("torch")).split(".")[:2]:
        connection.watch.warn(
            f"{connection.peer.name} has PyTorch {shown(torch)}, costsim is used with {here}"
        )
    return python
