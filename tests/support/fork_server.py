"""Real processes of Python that start at once: forks of one that has imported torch and costsim.

    done = run(["-m", "costsim", "devices"], cwd=folder)        # much as `subprocess.run`
    process = start(["-m", "costsim", "study", "study.yaml"])   # much as `subprocess.Popen`

What is forked has run nothing yet. It has arguments, environment, working folder, streams and
signal handlers of its own, runs as `__main__` and ends as Python ends: by its status, a traceback
or a signal. What an interpreter decides when it starts or a module when it is imported is decided
already (the seed of hashes, threads of OpenMP, the locale, which modules are loaded), and its
command line in the list of processes is the server's; a test of any of that starts Python itself.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from waiting import PATIENCE_S

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL

Stream = int | IO[Any] | None
"""A file or its descriptor, `PIPE` or `DEVNULL`; None: that of the process that asks."""


@dataclass
class Process:
    """One that was started: the part of `subprocess.Popen` that tests use, its streams as text.

    `peak_bytes` is the most memory it held, known once it has ended.
    """

    pid: int
    line: socket.socket
    stdin: IO[str] | None
    stdout: IO[str] | None
    stderr: IO[str] | None
    returncode: int | None = None
    peak_bytes: int = 0

    def poll(self) -> int | None:
        """Its exit status, or minus the signal; None while it runs."""
        with suppress(TimeoutError, BlockingIOError):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = PATIENCE_S) -> int:
        """Wait for its end; raise `TimeoutError` where it does not come in so many seconds."""
        if self.returncode is None:
            self.line.settimeout(timeout)
            told = self.line.recv(1024)
            self.line.close()
            assert told, "the server of forks has ended"
            self.returncode, self.peak_bytes = json.loads(told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = PATIENCE_S) -> tuple[str, str]:
        """Read what it prints to its end; of a stream that is no pipe, nothing."""
        if self.stdin is not None:
            self.stdin.close()
        found: dict[int, str] = {}

        def read(number: int, stream: IO[str]) -> None:
            found[number] = stream.read()
            stream.close()

        streams = enumerate((self.stdout, self.stderr))
        reading = [
            threading.Thread(target=read, args=(number, stream))
            for number, stream in streams
            if stream is not None
        ]
        for thread in reading:
            thread.start()
        self.wait(timeout)
        for thread in reading:
            thread.join()
        return found.get(0, ""), found.get(1, "")


@dataclass(frozen=True)
class ForkServer:
    """The process that is forked, and the socket on which it is asked."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket

    def start(
        self,
        arguments: Sequence[object],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        start_new_session: bool = False,
    ) -> Process:
        """A fork that does what `python` does with `arguments`: `-m MODULE`, `-c CODE` or a file.

        `-W error` may stand before them; it is of what is imported from then on.
        """
        asked = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        ours, theirs = socket.socketpair()
        with ExitStack() as given:  # what is theirs alone is closed here once it was sent
            given.callback(theirs.close)
            streams = (stdin, stdout, stderr)
            found = [_ends(number, stream, given) for number, stream in enumerate(streams)]
            ends, (to, out, err) = [end for end, _ in found], (pipe for _, pipe in found)
            content = json.dumps(asked).encode() + b"\n"
            sent = socket.send_fds(self.line, [content], [*ends, theirs.fileno()])
            self.line.sendall(content[sent:])
        pid = int.from_bytes(ours.recv(8), "little")
        return Process(pid, ours, to, out, err)

    def stop(self) -> None:
        """End it; what it has started goes on."""
        self.line.close()
        self.process.wait()


def _ends(number: int, stream: Stream, given: ExitStack) -> tuple[int, IO[str] | None]:
    """The descriptor that a fork is given as `number`, and the end of a pipe that is kept."""
    if stream is None:
        return number, None
    if not isinstance(stream, int):
        return stream.fileno(), None
    if stream == DEVNULL:
        null = os.open(os.devnull, os.O_RDWR)
        given.callback(os.close, null)
        return null, None
    if stream != PIPE:
        return stream, None
    read, write = os.pipe()
    theirs, ours, mode = (read, write, "w") if number == 0 else (write, read, "r")
    given.callback(os.close, theirs)
    return theirs, os.fdopen(ours, mode)


def serve(path: Sequence[str] = ()) -> ForkServer:
    """Start a server, which finds modules in the folders of `path`, too."""
    ours, theirs = socket.socketpair()
    folders = [*path, os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
        },
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return ForkServer(process, ours)


@cache
def server() -> ForkServer:
    """The server of this process, started when it is first needed."""
    found = serve()
    atexit.register(found.stop)
    return found


def start(arguments: Sequence[object], **how: Any) -> Process:
    """See `ForkServer.start`."""
    return server().start(arguments, **how)


def run(
    arguments: Sequence[object], *, timeout: float = PATIENCE_S, **how: Any
) -> "subprocess.CompletedProcess[str]":
    """Start it and wait for its end; what it prints is kept, unless it was sent elsewhere."""
    process = start(arguments, **{"stdout": PIPE, "stderr": PIPE, **how})
    out, err = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(map(str, arguments)), process.returncode, out, err)


# What the server does.


@dataclass
class _Forks:
    """The forks that run, each with the socket on which its end is told."""

    line: socket.socket
    lines: dict[int, socket.socket] = field(default_factory=dict)

    def until_forked(self) -> dict[str, Any] | None:
        """Serve; return in every fork, with what it is asked to do, and with None at the end."""
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGCHLD, _heard)
        with selectors.DefaultSelector() as selector:
            selector.register(self.line, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if woken in ready:
                    woken.recv(4096)
                    self._reap()
                if self.line not in ready:
                    continue
                question = self._question()
                if question is None:
                    return None
                if self._fork(*question):
                    break
        signal.set_wakeup_fd(-1)
        for end in (woken, wakes, self.line, *self.lines.values()):
            end.close()
        return question[0]

    def _question(self) -> tuple[dict[str, Any], list[int]] | None:
        data, descriptors, *_ = socket.recv_fds(self.line, 1 << 20, 4)
        while data and not data.endswith(b"\n"):
            data += self.line.recv(1 << 20)
        return (json.loads(data), descriptors) if data else None

    def _fork(self, asked: Mapping[str, Any], descriptors: Sequence[int]) -> bool:
        """Whether this is the fork, which says its number once it leads the session it is to."""
        line = socket.socket(fileno=descriptors[3])
        pid = os.fork()
        if pid:
            self.lines[pid] = line
        else:
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            if asked["session"]:
                os.setsid()
            line.sendall(os.getpid().to_bytes(8, "little"))
            line.close()
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        return not pid

    def _reap(self) -> None:
        """Tell of every fork that has ended how it did."""
        while self.lines:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            ended = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
            with self.lines.pop(pid) as line, suppress(OSError):  # nobody may want to know
                line.sendall(json.dumps(ended).encode())


def _heard(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal wakes."""


def _become(asked: Mapping[str, Any]) -> Callable[[], object]:
    """Take on what was asked for; what is returned runs it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    arguments = list(asked["arguments"])
    if arguments[:2] == ["-W", "error"]:
        import warnings

        warnings.simplefilter("error")
        del arguments[:2]
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [folder for folder in added if folder not in sys.path]
    first, *rest = arguments
    if first == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest  # noqa: PTH109
        return lambda: runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    if first == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        names = {"__name__": "__main__", "__builtins__": __builtins__}
        return lambda: exec(compile(rest[0], "<string>", "exec"), names)
    sys.path[0], sys.argv = str(Path(first).resolve().parent), arguments
    return lambda: runpy.run_path(first, run_name="__main__")


def _import_all() -> None:
    """Whatever a command may import later; what needs an extra that is not installed, it lacks."""
    import importlib
    import pkgutil

    import sklearn.datasets  # noqa: F401
    import torch

    import costsim

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(costsim.__path__, "costsim."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))  # imports much on its first use


def _end(main: Callable[[], object]) -> NoReturn:
    """Run it and end as Python does, but leave what was imported whole: seconds of work."""
    status: object = None
    try:
        main()
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        traceback.print_exc()
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120  # as Python has it
    os._exit(status or 0)


if __name__ == "__main__":
    _import_all()
    gc.collect()
    gc.freeze()  # what is shared stays so
    _asked = _Forks(socket.socket(fileno=int(sys.argv[1]))).until_forked()
    if _asked is not None:
        _end(_become(_asked))
