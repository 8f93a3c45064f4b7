"""Runs as root in the booted container of ``test_systemd_container.py``: installs, starts, breaks, stops the units.

Writes what it saw to /out/seen.json; judging that is the test's business.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from edge_daemon.memory import MemoryBank
from edge_daemon.testing.virtual_plc import PtyPair, VirtualPlc

SEEN: dict[str, Any] = {}
PAGE_PASSWORD = "a sentence for the page"
FRAMES = Path("/var/lib/edge-daemon/frames")  # the units may write below their StateDirectory only


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def shown(unit: str, key: str) -> str:
    return run("systemctl", "show", "--value", "-p", key, unit)


def wait(condition: Callable[[], Any], timeout_s: float = 40.0) -> float:
    """Seconds until the condition held."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.02)
    return round(time.monotonic() - began_s, 2)


def pid(unit: str) -> int:
    return int(shown(unit, "MainPID"))


def mode(path: str) -> str:
    found = Path(path).stat()
    return f"{Path(path).owner()}:{Path(path).group()} {stat.S_IMODE(found.st_mode):o}"


def events() -> list[str]:
    lines = run("journalctl", "-u", "edge-daemon", "-o", "cat", "--no-pager").splitlines()
    return [json.loads(line).get("event", "") for line in lines if line.startswith("{")]


@contextmanager
def listening(host: str, **options: Any) -> Iterator[httpx.Client]:
    """A browser at the page, once the page answers."""
    base = f"{'https' if options else 'http'}://{host}:7860"
    client = httpx.Client(base_url=base, headers={"origin": base, "accept-language": "en"}, timeout=60.0, **options)

    def answers() -> bool:
        try:
            return client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    with closing(client):
        wait(answers)
        yield client


def opened(client: httpx.Client) -> None:
    """With the key, as the journal has it."""
    said = run("journalctl", "-u", "edge-station", "-o", "cat", "--no-pager")
    client.get("/", params={"token": re.findall(r"token=([\w-]+)", said)[-1]})


def feedback(client: httpx.Client, address: str) -> int:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(address).text)
    assert found is not None
    form = {"csrf": found.group(1), "verdict": "false_call", "why": "wiped clean"}
    return client.post(f"{address}/feedback", data=form).status_code


def drop_in(unit: str, name: str, replaced: Mapping[str, str] | None = None) -> None:
    """Put an example in place."""
    text = Path(f"/opt/{unit}.d/{name}.conf.example").read_text()
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    folder = Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conf").write_text(text)


def look_at_the_page() -> None:
    """As it is installed; with feedback on the line; for other machines."""
    seen = SEEN["page"] = {}
    kept = pid("edge-daemon"), pid("edge-line")
    run("systemctl", "start", "edge-station")
    with MemoryBank("/var/lib/edge-daemon/memory.db", read_only=True) as bank:
        record = next(one for one in bank.history() if one.pictures is not None)
    address = f"/records/line/{record.record_id}"
    with listening("127.0.0.1") as client:
        opened(client)
        seen["record"], seen["picture"] = (client.get(address + one).status_code for one in ("", "/picture/original"))
        seen["listed"] = record.record_id in client.get("/history").text
        seen["engines"] = "castings-xray" in client.get("/system").text
        seen["feedback_refused"] = feedback(client, address)
    threads = Path(f"/proc/{pid('edge-station')}/task").iterdir()
    idle = [os.sched_getscheduler(int(one.name)) == os.SCHED_IDLE for one in threads]
    seen["scheduling"] = "idle" if any(idle) else "as before"
    root = f"/proc/{pid('edge-station')}/root"
    hidden = [Path(root + one) for one in ("/run/edge-daemon", "/etc/edge-daemon/credentials")]
    hidden = [one for one in hidden if stat.S_IMODE(one.stat().st_mode) == 0 and not any(one.iterdir())]
    seen["hidden"] = [str(one).removeprefix(root) for one in hidden]
    seen["line_untouched"] = kept == (pid("edge-daemon"), pid("edge-line"))

    drop_in("edge-station.service", "line-feedback")
    drop_in("edge-daemon.service", "line-feedback")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "edge-daemon")  # the folder's mode is set at its start
    run("systemctl", "stop", "edge-station", "edge-daemon")
    for path in Path("/var/lib/edge-daemon").glob("memory.db*"):
        path.chmod(path.stat().st_mode | 0o020)
    run("systemctl", "start", "edge-station")  # before the daemon: what the clerk makes must be of use to it
    with listening("127.0.0.1") as client:
        opened(client)
        seen["feedback_allowed"] = feedback(client, address)
        run("systemctl", "start", "edge-daemon")
        seen["clerk_harmless"] = shown("edge-daemon", "ActiveState") == "active" and feedback(client, address) == 303

    users = "/var/lib/edge-station/users.json"
    add = ["runuser", "-u", "edge-station", "-g", "edge-daemon", "--", "/opt/edge-daemon/bin/edge-daemon", "station",
           "--users", users, "--add-user", "ann", "--role", "administrator"]  # fmt: skip
    subprocess.run(add, input=f"{PAGE_PASSWORD}\n", text=True, check=True, capture_output=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "/etc/edge-station/page.key",
        "-out", "/etc/edge-station/page.pem")  # fmt: skip
    Path("/etc/edge-station/page.key").chmod(0o600)
    # --nice 0: whatever else computes on this machine would otherwise keep the page from hashing a password in time.
    changes = {"192.0.2.20": "127.0.0.1", "--backend onnxruntime": "--backend onnxruntime --nice 0"}
    drop_in("edge-station.service", "plant-network", changes)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "edge-station")
    with listening("127.0.0.1", verify=ssl.create_default_context(cafile="/etc/edge-station/page.pem")) as client:
        seen["tls"] = {"login": client.get("/login").status_code}
        form = {"name": "ann", "password": PAGE_PASSWORD}
        seen["tls"]["logged_in"] = client.post("/login", data=form).status_code
        seen["tls"]["history"] = client.get("/history").status_code
        try:
            httpx.get("http://127.0.0.1:7860/login")
        except httpx.TransportError:
            seen["tls"]["plain"] = "refused"
    for path in ("/var/lib/edge-station", users, "/var/lib/edge-daemon/memory.db", "/etc/edge-station"):
        seen.setdefault("modes", {})[path] = mode(path)
    run("systemctl", "stop", "edge-station")
    seen["stop"] = [shown("edge-station", key) for key in ("Result", "ExecMainStatus")]


def main() -> None:
    run("systemd-sysusers")
    run("systemd-tmpfiles", "--create", "edge-daemon.conf")
    shutil.copy("/etc/edge-daemon/password", "/etc/edge-daemon/credentials/mqtt-password")
    Path("/etc/edge-daemon/credentials/mqtt-password").chmod(0o600)
    Path("/etc/edge-daemon/password").unlink()
    FRAMES.mkdir(parents=True, exist_ok=True)
    shutil.chown(FRAMES.parent, "edge-daemon", "edge-daemon")
    shutil.chown(FRAMES, "edge-daemon", "edge-daemon")
    broker = subprocess.Popen(["mosquitto", "-c", "/etc/edge-daemon/mosquitto.conf"], stdout=subprocess.DEVNULL)
    count = 0

    def expose(part_id: int) -> None:
        nonlocal count
        count += 1
        part = FRAMES / f".{count}.part"
        shutil.copy("/etc/edge-daemon/frame.png", part)
        shutil.chown(part, "edge-daemon", "edge-daemon")
        part.rename(FRAMES / f"{count:06d}.png")

    with PtyPair() as wire:
        port = os.path.realpath(wire.device_path)  # its name lies in /tmp, of which each unit has its own
        os.chmod(port, 0o666)  # a real port has the group dialout by udev
        text = Path("/etc/edge-daemon/line.toml").read_text()
        Path("/etc/edge-daemon/line.toml").write_text(text.replace("@PORT@", port))
        run("systemctl", "start", "edge-line")
        began_s = time.monotonic()
        run("systemctl", "start", "edge-daemon")  # returns at READY=1
        SEEN["start_s"] = round(time.monotonic() - began_s, 2)
        SEEN["status"] = shown("edge-daemon", "StatusText")
        for path in ("/var/lib/edge-daemon", "/var/lib/edge-daemon/pictures", "/run/edge-daemon",
                     "/run/edge-daemon/line.sock", "/etc/edge-daemon/credentials"):  # fmt: skip
            SEEN.setdefault("modes", {})[path] = mode(path)
        secret = Path("/etc/edge-daemon/credentials/mqtt-password").read_bytes().strip()
        own = [Path(f"/proc/{pid('edge-daemon')}/{name}").read_bytes() for name in ("environ", "cmdline")]
        SEEN["secret_in_process"] = any(secret in one for one in own)
        with VirtualPlc(wire.plc_path, "ascii", deadline_s=3.3, on_trigger=expose) as plc:
            SEEN["ready"] = plc.wait_ready(30)
            SEEN["passed"] = plc.wait_decided(plc.trigger(), 6)

            stopped = pid("edge-daemon")
            os.kill(stopped, signal.SIGSTOP)
            began_s = time.monotonic()
            wait(lambda: pid("edge-daemon") not in (0, stopped))
            SEEN["watchdog_s"] = round(time.monotonic() - began_s, 2)
            wait(lambda: shown("edge-daemon", "ActiveState") == "active")
            SEEN["watchdog_restarts"] = int(shown("edge-daemon", "NRestarts"))
            SEEN["ready_after_watchdog_s"] = wait(lambda: plc.wait_ready(1))
            SEEN["passed_after_watchdog"] = plc.wait_decided(plc.trigger(), 6)

            recipe = Path("/etc/edge-daemon/recipe.toml")
            recipe.write_text(recipe.read_text().replace('name = "one"', 'name = "two"'))
            kept = pid("edge-daemon")
            run("systemctl", "reload", "edge-daemon")
            SEEN["reloaded_s"] = wait(lambda: "reloaded" in events())
            SEEN["reload_kept_the_process"] = pid("edge-daemon") == kept

            line = pid("edge-line")
            os.kill(line, signal.SIGKILL)
            SEEN["line_back_s"] = wait(lambda: pid("edge-line") not in (0, line))
            time.sleep(1.0)  # the PLC still remembers the Ready of the gate that was killed
            SEEN["ready_after_gate_s"] = wait(lambda: plc.wait_ready(1))
            SEEN["daemon_outlived_the_gate"] = pid("edge-daemon") == kept
            SEEN["passed_after_gate"] = plc.wait_decided(plc.trigger(), 6)
            time.sleep(1.0)
            with MemoryBank("/var/lib/edge-daemon/memory.db", read_only=True) as bank:
                SEEN["records"] = [[one.outcome, list(one.reasons), one.recipe] for one in bank.history()]
            SEEN["line_restarts"] = shown("edge-line", "NRestarts")
            SEEN["tail"] = run(
                "journalctl", "-u", "edge-daemon", "-u", "edge-line", "-n", "25", "--no-pager", "-o", "short-precise"
            ).splitlines()
        look_at_the_page()
        SEEN["delivered"] = run("mosquitto_sub", "-V", "5", "-u", "cell", "-P", secret.decode(), "-t", "#", "-C", "1",
                                "-W", "10", "-F", "%p")  # fmt: skip
        run("systemctl", "stop", "edge-daemon")
        SEEN["stop"] = [shown("edge-daemon", key) for key in ("Result", "ExecMainStatus")]
        run("systemctl", "start", "edge-daemon")  # to be there when the machine goes down
    broker.terminate()


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001 - whatever it was, the test says it
        SEEN["error"] = traceback.format_exc()
        SEEN["journal"] = subprocess.run(
            ["journalctl", "-u", "edge-daemon", "-u", "edge-line", "-u", "edge-station", "-n", "60", "--no-pager"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
    Path("/out/seen.json").write_text(json.dumps(SEEN, indent=1))
    os.sync()
    subprocess.run(["systemctl", "--no-block", "poweroff"], check=False)
