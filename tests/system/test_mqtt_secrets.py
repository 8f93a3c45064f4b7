"""The broker's and our own identity against a real mosquitto, and secrets that show up nowhere."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_daemon.errors import ConfigError, OutputError
from edge_daemon.memory import MemoryBank
from edge_daemon.mqtt import MqttOptions, fingerprints
from edge_daemon.publish import Publisher, probe
from edge_daemon.testing.broker import Broker

ROOT = "acme/york/cast/line1/xray"
PASSWORD = "S3cret-of-the-cell"
pytestmark = [
    pytest.mark.needs("mosquitto"),
    # paho-mqtt 2.2 drops its socket without closing it when the handshake fails.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <.*PinnedSocket:pytest.PytestUnraisableExceptionWarning",
        "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning",
    ),
]


class Authority:
    """A certificate authority for one test; certificates and keys as PEM files in ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the test")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = str(folder / f"{name}.pem")
        own = self._build(self._name, self._key, 1, -1).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = own.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        Path(self.file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject: x509.Name, key: Any, until_days: float, since_days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=since_days))
            .not_valid_after(now + datetime.timedelta(days=until_days))
        )

    def issue(self, name: str, *, until_days: float = 1, address: str = "127.0.0.1") -> tuple[str, str]:
        """(certificate, key) files; negative days: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        also = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = self._build(subject, key, until_days, min(until_days, 0) - 1).add_extension(also, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files[1].chmod(0o640)
        return str(files[0]), str(files[1])


def settings(authority: Authority, server: tuple[str, str], *more: str) -> list[str]:
    return ["allow_anonymous true", f"cafile {authority.file}", f"certfile {server[0]}", f"keyfile {server[1]}",
            "require_certificate true", *more]  # fmt: skip


def options(broker: Broker, **more: Any) -> MqttOptions:
    return MqttOptions(host=broker.host, port=broker.port, topic_root=ROOT, version=broker.mqtt_version, **more)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def pins_of(file: str) -> tuple[str, str]:
    certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
    return fingerprints(certificate.public_bytes(serialization.Encoding.DER))


def test_the_right_certificate_is_let_in_and_every_other_one_is_not(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue("server"), authority.issue("client")
    (tmp_path / "foreign").mkdir()
    foreign = Authority(tmp_path / "foreign", "another")
    right = {"ca_file": authority.file, "cert_file": client[0], "key_file": client[1]}
    of_another, expired = foreign.issue("client"), authority.issue("old", until_days=-1)
    with Broker(kind="mosquitto", settings=settings(authority, server)) as broker:
        assert "TLS" in probe(options(broker, **right))
        for wrong in (
            {"ca_file": authority.file},  # no certificate
            {**right, "cert_file": of_another[0], "key_file": of_another[1]},
            {**right, "cert_file": expired[0], "key_file": expired[1]},
            {**right, "ca_file": foreign.file},  # we do not know the broker
        ):
            with pytest.raises(OutputError) as refused:
                probe(options(broker, **wrong))
            assert "PRIVATE KEY" not in str(refused.value)


def test_a_pin_is_asked_for_besides_the_authority(authority: Authority) -> None:
    server, client, other = authority.issue("server"), authority.issue("client"), authority.issue("other")
    right = {"ca_file": authority.file, "cert_file": client[0], "key_file": client[1]}
    whole, public = pins_of(server[0])
    foreign_whole, foreign_public = pins_of(other[0])
    with Broker(kind="mosquitto", settings=settings(authority, server)) as broker:
        for pins in ((whole,), (public,), (foreign_whole, public)):
            assert "acknowledged" in probe(options(broker, **right, pins=pins))
        for pins in ((foreign_whole,), (foreign_public, foreign_whole), (f"sha256:{public[5:]}",)):
            with pytest.raises(OutputError, match=f"not a pinned one: {whole} {public}"):
                probe(options(broker, **right, pins=pins))


def test_nothing_is_said_to_a_broker_with_another_pin(authority: Authority) -> None:
    """Above all no password: what comes over the wire after the handshake is nothing at all."""
    import socket
    import ssl
    import threading

    server = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = listener.accept()[0]
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    heard.append(secure.recv(4096))
            except OSError:
                heard.append(b"")

        thread = threading.Thread(target=serve)
        thread.start()
        secret = authority.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        where = MqttOptions(
            host="127.0.0.1", port=listener.getsockname()[1], topic_root=ROOT, ca_file=authority.file,
            username="cell", password_file=str(secret), pins=("sha256:" + 64 * "0",),
        )  # fmt: skip
        with pytest.raises(OutputError, match="not a pinned one"):
            probe(where)
        thread.join(10)  # the socket is closed, not left to the collector
        assert not thread.is_alive()
    assert heard == [b""]


def test_an_expired_broker_and_one_of_another_name_are_refused(authority: Authority) -> None:
    client = authority.issue("client")
    right = {"ca_file": authority.file, "cert_file": client[0], "key_file": client[1]}
    for server, said in (
        (authority.issue("late", until_days=-1), "expired"),
        (authority.issue("elsewhere", address="192.0.2.9"), "IP address mismatch"),
    ):
        running = Broker(kind="mosquitto", settings=settings(authority, server))
        with running as broker, pytest.raises(OutputError, match=said):
            probe(options(broker, **right))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"host": "192.0.2.1"}, "would be reached in plain text"),
        ({"host": "broker.example"}, "would be reached in plain text"),
        ({"ca_file": "x", "pins": ("sha256:00",)}, "is no pin"),
        ({"pins": ("sha256:" + 64 * "0",)}, "without mqtt.ca_file"),
    ],
)
def test_what_would_not_be_safe_is_an_error_before_anything_is_sent(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MqttOptions(**{"host": "127.0.0.1", "topic_root": ROOT, **more})
    assert MqttOptions(host="192.0.2.1", topic_root=ROOT, insecure=True).tls_context() is None


def test_credentials_of_systemd_are_found_by_name(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = authority.issue("server"), authority.issue("client")
    given = tmp_path / "credentials"
    given.mkdir()
    for name, file in (("edge_ca.pem", authority.file), ("edge_cell.pem", client[0]), ("edge_cell.key", client[1])):
        (given / name).write_bytes(Path(file).read_bytes())
    (given / "edge_mqtt-password").write_text(PASSWORD + "\n")
    for path in given.iterdir():
        path.chmod(0o400)
    named = {"ca_file": "credential:edge_ca.pem", "cert_file": "credential:edge_cell.pem",
             "key_file": "credential:edge_cell.key", "username": "cell",
             "password_file": "credential:edge_mqtt-password"}  # fmt: skip
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "cell", PASSWORD], check=True, capture_output=True)
    passwords.chmod(0o644)
    lines = [line for line in settings(authority, server) if not line.startswith("allow")]
    with Broker(kind="mosquitto", settings=[*lines, "allow_anonymous false", f"password_file {passwords}"]) as broker:
        where = options(broker, **named)
        with pytest.raises(ConfigError, match="handed over no credential 'edge_mqtt-password'"):
            where.check_files()
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
        assert "acknowledged" in probe(where)
        (given / "edge_mqtt-password").chmod(0o600)
        (given / "edge_mqtt-password").write_text("another")
        with pytest.raises(OutputError) as refused:
            probe(where)
        assert "another" not in str(refused.value)
    for name in ("../../etc/passwd", "", "a/b", ".hidden"):
        with pytest.raises(ConfigError, match="is no credential's name"):
            MqttOptions(host="127.0.0.1", topic_root=ROOT, ca_file=f"credential:{name}").check_files()


def test_a_key_that_everybody_can_read_is_refused(authority: Authority) -> None:
    client = authority.issue("client")
    Path(client[1]).chmod(0o644)
    with pytest.raises(ConfigError, match=r"mqtt\.key_file .*can be read by everybody") as refused:
        MqttOptions(
            host="127.0.0.1", topic_root=ROOT, ca_file=authority.file, cert_file=client[0], key_file=client[1]
        ).check_files()
    assert refused.value.code == "SECRET"


def test_the_password_shows_up_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, until: Any) -> None:
    """Not in the log of a refused login, not in ``check``, not on a command line or in an environment, not in repr."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    nobody = tmp_path / "passwords"
    nobody.write_text("")
    caplog.set_level(logging.DEBUG)
    with (
        Broker(kind="mosquitto", settings=["allow_anonymous false", f"password_file {nobody}"]) as broker,
        MemoryBank(tmp_path / "memory.db") as bank,
    ):
        where = options(broker, username="cell", password_file=str(secret))
        publisher = Publisher(bank, where, "cell-1")
        publisher.start()
        try:
            until(lambda: "refuses the login" in publisher.state().last_error)
            shown = [repr(where), repr(publisher.state()), caplog.text]
        finally:
            publisher.stop(0.1)
        (tmp_path / "line.toml").write_text(
            f'[station]\nname = "cell-1"\nrecipe = "r.toml"\n[camera]\nkind = "folder"\nfolder = "."\n'
            f'[line]\ndriver = "ascii"\nport = "/dev/null"\ndeadline = "300 ms"\nsocket = "{tmp_path}/s"\n'
            f'[memory]\ndatabase = "m.db"\npictures = "p"\n[watch]\nport = 0\n[mqtt]\nhost = "{broker.host}"\n'
            f'port = {broker.port}\ntopic_root = "{ROOT}"\nusername = "cell"\npassword_file = "{secret}"\n'
        )
        check = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon", "check", "--config", str(tmp_path / "line.toml"), "--debug"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONDEVMODE": "0"},
        )  # fmt: skip
        seen = b""
        while check.poll() is None:
            for what in ("cmdline", "environ"):
                try:
                    seen += Path(f"/proc/{check.pid}/{what}").read_bytes()
                except OSError:
                    break
            try:
                check.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert check.stdout is not None
        said = check.stdout.read()
        check.stdout.close()
    assert "refuses the login" in said
    assert b"line.toml" in seen
    assert PASSWORD not in "".join([*shown, said]) and PASSWORD.encode() not in seen


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    import time

    def wait(condition: Callable[[], Any]) -> Any:
        give_up_s = time.monotonic() + 15
        while time.monotonic() < give_up_s:
            if value := condition():
                return value
            time.sleep(0.02)
        pytest.fail("did not happen within 15 s")

    return wait
