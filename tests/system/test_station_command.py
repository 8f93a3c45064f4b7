"""``edge-daemon station`` on the command line: the key, the refusals, users, TLS, a clean end; and the demo's page."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PASSWORD = "a sentence of its own"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_daemon", *arguments]


def refused(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        command("station", "--data", str(tmp_path / "data"), "--port", "0", *arguments),
        capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@contextmanager
def station(tmp_path: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page as its own process: (address, process)."""
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("station", "--json", "--port", "0", "--data", str(tmp_path / "data"), *arguments),
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def until_it_answers(url: str, **options: Any) -> httpx.Response:
    until_s = time.monotonic() + 30
    while True:
        try:
            return httpx.get(url, timeout=10, **options)
        except httpx.ConnectError:
            assert time.monotonic() < until_s
            time.sleep(0.1)


def test_it_prints_the_address_that_opens_it_and_ends_when_told(tmp_path: Path) -> None:
    with station(tmp_path) as (url, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{30,}", url)
        answer = until_it_answers(url)
        assert answer.status_code == 303 and "edge_session" in answer.headers["set-cookie"]
        assert oct((tmp_path / "data").stat().st_mode)[-3:] == "700"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_key_that_stays_the_same(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o644)
    code, said = refused(tmp_path, "--token-file", str(key))
    assert code == 2 and "chmod 600" in said
    key.chmod(0o600)
    with station(tmp_path, "--token-file", str(key)) as (url, _):
        assert url.endswith("?token=0123456789abcdef0123456789abcdef")
    key.write_text("short\n")
    assert refused(tmp_path, "--token-file", str(key))[0] == 2


def test_other_machines_need_tls_and_users(tmp_path: Path) -> None:
    code, said = refused(tmp_path, "--host", "0.0.0.0")
    assert code == 2 and "there is no TLS" in said and "INSECURE" in said
    (tmp_path / "x.pem").write_text("no certificate")
    pem = ["--tls-cert", str(tmp_path / "x.pem"), "--tls-key", str(tmp_path / "x.pem")]
    code, said = refused(tmp_path, "--host", "0.0.0.0", *pem)
    assert code == 2 and "there are no users" in said
    code, said = refused(tmp_path, *pem)
    assert code == 2 and "cannot be used" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--recipe", "none.toml"], "no such recipe"), (["--watch", "localhost"], "is no address"),
     (["--config", "none.toml"], "no such file"), (["--add-user", "ann"], "without --users"),
     (["--tls-cert", "x.pem"], "go together")],
)  # fmt: skip
def test_wrong_use_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    code, text = refused(tmp_path, *arguments)
    assert code == 2 and said in text


def test_a_port_that_is_taken_is_exit_code_3(tmp_path: Path) -> None:
    with station(tmp_path) as (url, _):
        port = url.split(":")[2].split("/")[0]
        done = subprocess.run(
            command("station", "--data", str(tmp_path / "other"), "--port", port),
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
    assert done.returncode == 3 and "choose another --port" in done.stderr


@pytest.mark.needs("openssl")
def test_users_over_tls(tmp_path: Path) -> None:
    cert, key, users = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "users.json"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    added = subprocess.run(
        command("station", "--users", str(users), "--add-user", "ann", "--role", "administrator", "--json"),
        input=PASSWORD + "\n", capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert json.loads(added.stdout) == {"user": "ann", "role": "administrator", "file": str(users)}
    tls = ["--users", str(users), "--tls-cert", str(cert), "--tls-key", str(key)]
    with station(tmp_path, *tls) as (url, _):
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/", url), "no key where there are users"
        trusted = ssl.create_default_context(cafile=str(cert))
        answer = until_it_answers(url + "login", verify=trusted)
        assert answer.status_code == 200 and "max-age" in answer.headers["strict-transport-security"]
        with httpx.Client(base_url=url, headers={"origin": url.rstrip("/")}, verify=trusted, timeout=30) as client:
            logged_in = client.post("/login", data={"name": "ann", "password": PASSWORD})
            cookie = logged_in.headers["set-cookie"]
            assert cookie.startswith("__Host-edge_session=") and "Secure" in cookie and "HttpOnly" in cookie
            assert client.get("/users").status_code == 200


def test_the_demo_starts_the_page_beside_its_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("demo", "--parts", "3", "--rate", "60", "--camera", "folder", "--stay", "--out", str(tmp_path / "out")),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    url = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"the page: (http://\S+)", line)
            url = found.group(1) if found else url
            if "all parts are done" in line:
                break
        with httpx.Client(follow_redirects=True, timeout=20) as client:
            client.get(url)
            live = client.get(url.split("?")[0] + "live").text
            assert 'data-ready="true"' in live and live.count('class="part ') == 3
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(40) == 0, rest
        assert "the four counts agree" in rest
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
