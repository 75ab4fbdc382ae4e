"""Damaged copies of valid files, and a worker that gives them to the commands, one after another.

Run as a program it is that worker: for every line of JSON on stdin, an argument list, it answers a
line with the exit status, what was written to stderr, and the name of an exception that escaped.
"""

import contextlib
import io
import json
import random
import resource
import select
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fork_server import PIPE, Process, start

TOKENS = (
    *(b"9" * 5000, b"-1", b"1e999", b"10000000000000000000000", b"null", b"true", b"[]", b"{}"),
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"'", b"\\", b"[" * 3000, b"{" * 500, b"~"),
    *(b"*a", b"&a ", b"<<: *a", b"!!bool x", b"!!map [x]", b"!!timestamp x", b"!!binary x"),
    *(b"../" * 3000, b"~nouser/x", b"torch:os.abort", b"pytest:main", b"/dev/zero", b"%s%n{0}"),
    *(b"[red]", b"[/red]", b"\xe2\x80\xae", b"\r\n", b"PK"),
)
"""What readers have tripped over."""

MEMORY_BYTES = 6 * 2**30
"""Of the worker's address space; what asks for more ends with an error, not with the machine."""


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with a few changes: bits, runs that go, come twice or change places, tokens."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        end = min(end, at + rng.choice((1, 4, 64, 4096)))
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data[at:end] = bytes(end - at)
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data)


def value_replaced(content: bytes, rng: random.Random) -> bytes:
    """A JSON or YAML text with one value, after a colon, replaced by what may not stand there."""
    colons = [at for at, byte in enumerate(content) if byte == ord(":")]
    if not colons:
        return mutated(content, rng)
    at = rng.choice(colons) + 1
    end = min((i for i in (content.find(c, at) for c in (b",", b"\n", b"}")) if i > 0), default=at)
    return content[:at] + b" " + rng.choice(TOKENS) + content[end:]


@dataclass(frozen=True)
class Kind:
    """A kind of file: a valid one, the commands that read it, what they may write, and how it is
    damaged."""

    name: str
    content: bytes
    arguments: tuple[tuple[str, ...], ...]
    mutate: Callable[[bytes, random.Random], bytes] = mutated


@dataclass
class Answer:
    """What one command line came to."""

    status: int | None
    stderr: str
    escaped: str


@dataclass
class Worker:
    """A process that runs command lines in `folder`; killed and begun again at a time limit."""

    folder: Path
    limit_s: float
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.process = start([__file__], cwd=self.folder, stdin=PIPE, stdout=PIPE)

    def _end(self) -> int:
        self.process.kill()
        self.process.communicate()
        return self.process.wait()

    def run(self, arguments: list[str]) -> Answer:
        """The answer to a command line; status None where it did not end, or took the worker."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit_s)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return Answer(**json.loads(line))
        code = self._end()
        self._start()
        return Answer(None, "", f"did not end (process {code})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


def _answer(arguments: list[str]) -> dict[str, Any]:
    from costsim.cli import main

    out, err = io.StringIO(), io.StringIO()
    status, escaped = None, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except BaseException as error:  # what may never escape
            where = traceback.extract_tb(error.__traceback__)[-1]
            escaped = (
                f"{type(error).__name__}: {str(error)[:200]} at {where.filename}:{where.lineno}"
            )
    return {"status": status, "stderr": err.getvalue(), "escaped": escaped}


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = sys.stdout
    sys.stdout = io.StringIO()
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
