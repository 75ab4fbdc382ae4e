"""A real browser that tests drive: Chromium, asked over two pipes as its developer tools ask it."""

import json
import os
import shutil
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0


def chromium() -> str | None:
    """Where it is; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser(AbstractContextManager["Browser"]):
    """One page, in which expressions are evaluated; ends with its `with`."""

    def __init__(self, program: str, address: str, folder: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *options, f"--user-data-dir={folder}"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out):
            os.close(end)
        self.out, self.into = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self.asked, self.rest, self.session = 0, b"", ""
        target = self.call("Target.createTarget", url=address)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """The result of one of the protocol's methods."""
        self.asked += 1
        asked: dict[str, Any] = {"id": self.asked, "method": method, "params": given}
        if self.session:
            asked["sessionId"] = self.session
        self.out.write(json.dumps(asked).encode() + b"\0")
        self.out.flush()
        while (heard := self._heard()).get("id") != self.asked:
            pass
        assert "error" not in heard, heard
        found: dict[str, Any] = heard["result"]
        return found

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """The first value of an expression that is true."""
        ends = time.monotonic() + PATIENCE_S
        while not (found := self.value(expression)):
            assert time.monotonic() < ends, f"never so: {expression}"
            time.sleep(0.1)
        return found

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.out.close()
        self.into.close()

    def _heard(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.into.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self.rest += more
        told, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(told)
        return found
