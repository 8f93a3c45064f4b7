"""A PostgreSQL server of one's own, for tests: in a temporary folder, on a Unix socket there, as an ordinary user.

    with PostgresServer() as server:
        MemoryBank(server.url("plant"))

Needs Debian's ``postgresql`` (any version from 12), whose programs lie outside the path. Where the tests run as root,
the server runs as ``postgres``, or ``nobody`` where that user is not there: it refuses root. It listens on no port.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from ..errors import UnavailableError

__all__ = ["PostgresServer", "server_programs"]

_START_S = 30


def server_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl`` of the newest PostgreSQL here; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parents[1].name))
    named = shutil.which("initdb")
    candidates = [*reversed(found), *([Path(named).resolve()] if named else [])]
    return next((path.parent for path in candidates if (path.parent / "pg_ctl").exists()), None)


class PostgresServer:
    """Runs while the context lasts. Raises UnavailableError where there is no server to run, or it does not start."""

    def __init__(self) -> None:
        programs = server_programs()
        if programs is None:
            raise UnavailableError("there is no PostgreSQL server here", hint="apt-get install postgresql")
        self._programs = programs
        self._stack = contextlib.ExitStack()
        self._user = _ordinary_user()

    def __enter__(self) -> PostgresServer:
        # Under /tmp and not in the caller's folder: a socket's path is short, and the server's user must get there.
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-pg-", dir="/tmp")))
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self.folder.chmod(0o755)
        try:
            self._run("initdb", "-D", self._data, "-U", "edge", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
            options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
            self._run(
                "pg_ctl",
                "-D",
                self._data,
                "-w",
                "-t",
                str(_START_S),
                "-l",
                f"{self.folder}/log",
                "-o",
                options,
                "start",
            )
        except UnavailableError:
            self._stack.close()
            raise
        self._stack.callback(lambda: self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def _data(self) -> str:
        return f"{self.folder}/data"

    def url(self, database: str) -> str:
        """Of a database, which is made where it is not there."""
        listed = self._run("psql", "-h", str(self.folder), "-U", "edge", "-d", "postgres", "-Atc",
                           "SELECT datname FROM pg_database")  # fmt: skip
        if database not in listed.split():
            self._run("createdb", "-h", str(self.folder), "-U", "edge", database)
        return f"postgresql://edge@/{database}?host={quote(str(self.folder), safe='')}"

    def restart(self) -> None:
        """Stop it as a power cut would, and start it again."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-l", f"{self.folder}/log", "restart")

    def _run(self, program: str, *arguments: str) -> str:
        command: Sequence[str] = [str(self._programs / program), *arguments]
        # Into files and not pipes: the server inherits them, and a pipe would stay open as long as it runs.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, check=False,
                timeout=2 * _START_S, user=self._user, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            )  # fmt: skip
            output.seek(0)
            text = output.read().decode(errors="replace")
        if done.returncode != 0:
            raise UnavailableError(f"{program} failed: {text.strip()}")
        return text


def _ordinary_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise UnavailableError("PostgreSQL refuses root, and there is no user 'postgres' or 'nobody'")
