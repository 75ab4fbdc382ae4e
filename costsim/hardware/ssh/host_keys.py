"""Which key a host must have, by a known-hosts file of costsim's own.

The file is in the usual format of OpenSSH (`sshd(8)`, SSH_KNOWN_HOSTS FILE FORMAT), so that one
may be given that exists already; hashed names and patterns are understood.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.base.errors import InputError
from costsim.base.files import user_path, write_atomically

if TYPE_CHECKING:
    import asyncssh


def known_hosts_path() -> Path:
    """costsim's own file, in the user's configuration."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return user_path(base) / "costsim" / "known_hosts"


class HostKeys:
    """The keys pinned for one host, and the verdict on the one that it shows."""

    def __init__(self, path: Path, host: str, port: int, trust_new: bool) -> None:
        self.path, self.host, self.port, self.trust_new = path, host, port, trust_new
        self.refusal: str | None = None
        self.pinned: Sequence[asyncssh.SSHKey] = ()
        self.revoked: Sequence[asyncssh.SSHKey] = ()
        self.read()

    @property
    def place(self) -> str:
        """The host as a line of the file begins."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def read(self) -> None:
        """Read the file again; raises `InputError` if it cannot be understood."""
        import asyncssh

        if not self.path.exists():
            return
        try:
            known = asyncssh.read_known_hosts(str(self.path))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{self.path}: is no known-hosts file: {error}") from error
        self.pinned, _, self.revoked, *_ = known.match(self.host, "", self.port)

    def algorithms(self) -> list[str] | None:
        """The signature algorithms to ask for first, so that the host shows the pinned key."""
        return [
            name.decode()
            for key in self.pinned
            for name in (key.sig_algorithms or (key.algorithm,))
        ]

    def accepts(self, key: "asyncssh.SSHKey") -> bool:
        """Whether the host may have `key`; pins it where that was asked for."""
        if key in self.revoked:
            self.refusal = f"its key {key.get_fingerprint()} is revoked in {self.path}"
        elif key in self.pinned:
            return True
        elif self.pinned:
            expected = " or ".join(one.get_fingerprint() for one in self.pinned)
            self.refusal = (
                f"its host key is {key.get_fingerprint()}, but {expected} is pinned in "
                f"{self.path}: another machine may be answering; if the device was set up anew, "
                f"remove its line ({self.place}) there"
            )
        elif self.trust_new:
            self._pin(key)
            return True
        else:
            self.refusal = (
                f"its host key {key.get_fingerprint()} is not known; compare it with what "
                "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the device, then "
                f"give --trust-new-host once to pin it in {self.path}"
            )
        return False

    def _pin(self, key: "asyncssh.SSHKey") -> None:
        line = f"{self.place} {key.export_public_key().decode().strip()}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            before = self.path.read_text() if self.path.exists() else ""
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error
        if before and not before.endswith("\n"):
            before += "\n"
        write_atomically(self.path, before + line)
        self.pinned = (key,)
