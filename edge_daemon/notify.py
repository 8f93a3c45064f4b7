"""Telling systemd how we are (sd_notify), without a library.

Every function returns whether the message was handed over: False when not started by systemd with ``Type=notify``
(NOTIFY_SOCKET absent) or when nobody listens any more. Not being heard by systemd is no reason to stop a line, so
nothing here raises; a unit with ``WatchdogSec`` is restarted by systemd itself when the messages stay away.
Source: sd_notify(3).
"""

from __future__ import annotations

import os
import socket

__all__ = ["notify", "ready", "status", "stopping", "watchdog", "watchdog_interval_s"]


def notify(message: str) -> bool:
    """Send ``KEY=value`` lines to systemd; True if they were handed over."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.connect(address)
            sock.sendall(message.encode())
    except OSError:
        return False
    return True


def ready(text: str = "") -> bool:
    """Start-up is done; ``text`` is shown by ``systemctl status``."""
    return notify("READY=1" + (f"\nSTATUS={_one_line(text)}" if text else ""))


def watchdog() -> bool:
    """Still alive; to be called at least every ``watchdog_interval_s``."""
    return notify("WATCHDOG=1")


def stopping() -> bool:
    """A clean shutdown has begun."""
    return notify("STOPPING=1")


def status(text: str) -> bool:
    """One line of free text for ``systemctl status``."""
    return notify(f"STATUS={_one_line(text)}")


def watchdog_interval_s() -> float | None:
    """Half of WATCHDOG_USEC in seconds, as sd_watchdog_enabled(3) advises; None without a watchdog on this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
