"""What the page needs to know to start. Plain values: who reads them from a command line or a config is outside."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..signing import Trust

__all__ = ["Limits", "StationOptions", "default_data_folder", "is_loopback"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one upload and all that wait may take. side_px: longest side. pending_bytes: pixels of all waiting jobs."""

    upload_bytes: int = 64 << 20
    upload_px: int = 40_000_000
    side_px: int = 20_000
    pending_jobs: int = 32
    pending_bytes: int = 600 << 20


@dataclass(frozen=True, slots=True)
class StationOptions:
    """Everything ``edge-daemon station`` serves with.

    host, port: where to listen; port 0 takes a free one. data: folder of the page's own records, pictures, users and
    audit trail. database, watch_url: of the line beside it (memory bank; address of /metrics and /readyz), None where
    there is none. recipes: files offered by name. engines: names or folders of bundles, empty for all installed ones.
    standards_base: where the site's ``standards/`` lies. users: file of users, None for one local user who knows the
    token. tls_cert, tls_key: PEM files. trust: whose signatures bundles, tables and reference sets must carry, that of
    the line beside it. threads: of the engine. niceness: by how much the whole page but the clerk is
    nicer than it was started (0 to 19).
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 7860
    database: Path | None = None
    watch_url: str | None = None
    recipes: tuple[Path, ...] = ()
    engines: tuple[str, ...] = ()
    standards_base: Path | None = None
    users: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = None
    backend: str = "auto"
    threads: int = 1
    niceness: int = 0
    trust: Trust | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("a TLS certificate and its key go together", hint="--tls-cert FILE --tls-key FILE")
        if not is_loopback(self.host):
            if self.tls_cert is None:
                raise UsageError(
                    f"{self.host} can be reached from other machines, and there is no TLS",
                    code="INSECURE",
                    hint="give --tls-cert and --tls-key, or listen on 127.0.0.1",
                )
            if self.users is None:
                raise UsageError(
                    f"{self.host} can be reached from other machines, and there are no users",
                    code="INSECURE",
                    hint="make one with --users FILE --add-user NAME --role administrator, or listen on 127.0.0.1",
                )

    @property
    def tls(self) -> bool:
        """Whether the page is served over TLS."""
        return self.tls_cert is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than ``localhost`` is taken as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_data_folder() -> Path:
    """systemd's StateDirectory, else ``edge-daemon/station`` below the user's state folder."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given) / "station"
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "edge-daemon" / "station"
