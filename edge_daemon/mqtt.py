"""One MQTT connection and where it goes: options, topics, secrets, TLS, and the bytes of QoS 1.

Where it stands: below ``publish.py``, which decides what is sent when. Uses paho-mqtt 2 without its thread, its
reconnecting and its queue: a ``Connection`` is opened once, pumped by its owner's thread, and thrown away when it ends.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import selectors
import socket
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from .errors import ConfigError

__all__ = ["Connection", "ConnectionOver", "MqttOptions", "fingerprints"]

CONNECT_TIMEOUT_S = 5.0
RECEIVE_MOST = 100

_CREDENTIAL = "credential:"
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}")
_PIN = re.compile(r"(sha256|spki):[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """Where and how to deliver. Checked when made: ConfigError names the key.

    topic_root: ``{enterprise}/{site}/{area}/{line}/{cell}``, five names. version: 5 or 311 (3.1.1).
    ca_file: turns TLS on; a PEM file, or ``"system"`` for the certificates of the operating system.
    cert_file, key_file: the client's own certificate, both or neither. password_file: its first line is the password.
    Each of these files may be ``credential:NAME``, what systemd hands over (LoadCredential=) in $CREDENTIALS_DIRECTORY.
    pins: of the broker's certificate, besides ca_file: ``sha256:HEX`` of the whole, ``spki:HEX`` of its public key; one
    must fit, and is looked at before a password is sent.
    insecure: allows plain text to a host that is not loopback. client_id: ``""`` makes one from the topic root.

    The files are read when needed, not when this is made: ``check_files`` tries them.
    """

    host: str
    topic_root: str
    port: int = 1883
    version: int = 5
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    pins: tuple[str, ...] = ()
    insecure: bool = False
    keepalive_s: int = 10
    client_id: str = ""

    def __post_init__(self) -> None:
        levels = self.topic_root.split("/")
        if len(levels) != 5 or not all(levels) or any(c in self.topic_root for c in "+#\0") or levels[0][0] == "$":
            raise ConfigError(
                f"mqtt.topic_root = {self.topic_root!r} is not five names",
                hint="write {enterprise}/{site}/{area}/{line}/{cell} without + and #, such as acme/york/cast/l1/xray",
            )
        if not self.host:
            raise ConfigError("mqtt.host is empty", hint="name the broker, for example 127.0.0.1")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"mqtt.port = {self.port} is no port", hint="1883 is usual, 8883 with TLS")
        if self.version not in (5, 311):
            raise ConfigError(f"mqtt.version = {self.version} is unknown", hint="5, or 311 for MQTT 3.1.1")
        if not 2 <= self.keepalive_s <= 3600:
            raise ConfigError(f"mqtt.keepalive = {self.keepalive_s} s is out of range", hint="2 s to 3600 s")
        if self.password_file is not None and self.username is None:
            raise ConfigError("mqtt.password_file is given without mqtt.username", hint="give both")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("mqtt.cert_file and mqtt.key_file belong together", hint="give both or neither")
        if self.cert_file is not None and self.ca_file is None:
            raise ConfigError("mqtt.cert_file is given without mqtt.ca_file", hint="ca_file turns TLS on")
        for pin in self.pins:
            if not _PIN.fullmatch(pin):
                raise ConfigError(
                    f"mqtt.pins: {pin!r} is no pin", hint="sha256: or spki: and 64 hexadecimal digits, lower case"
                )
        if self.pins and self.ca_file is None:
            raise ConfigError("mqtt.pins is given without mqtt.ca_file", hint="ca_file turns TLS on")
        if self.ca_file is None and not self.insecure and not _is_loopback(self.host):
            raise ConfigError(
                f"mqtt.host = {self.host!r} would be reached in plain text",
                code="INSECURE",
                hint="give mqtt.ca_file (TLS), or say insecure = true",
            )

    def topic(self, kind: str) -> str:
        """The topic of ``result``, ``state``, ``event`` or ``command``."""
        return f"{self.topic_root}/inspection/{kind}"

    def password(self) -> str | None:
        """The first line of the password file, read anew each time; None without one. Raises ConfigError."""
        if self.password_file is None:
            return None
        path = _path("password_file", self.password_file)
        try:
            if path.stat().st_mode & stat.S_IROTH:
                raise ConfigError(
                    f"mqtt.password_file {path} can be read by everybody", code="SECRET", hint=f"chmod 640 {path}"
                )
            return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except UnicodeDecodeError as error:
            raise ConfigError(f"mqtt.password_file {path} is not UTF-8", hint="save it as UTF-8") from error
        except OSError as error:
            raise _unreadable("password_file", path, error) from error

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS settings (1.2 or newer, host name checked), or None for plain text. Raises ConfigError."""
        if self.ca_file is None:
            return None
        files: dict[str, Path | None] = {}
        for key, name in (("ca_file", self.ca_file), ("cert_file", self.cert_file), ("key_file", self.key_file)):
            path = files[key] = None if name is None or name == "system" else _path(key, name)
            if path is not None:
                try:
                    if key == "key_file" and path.stat().st_mode & stat.S_IROTH:
                        raise ConfigError(
                            f"mqtt.key_file {path} can be read by everybody", code="SECRET", hint=f"chmod 640 {path}"
                        )
                    path.read_bytes()
                except OSError as error:
                    raise _unreadable(key, path, error) from error
        ca_file, cert_file, key_file = files["ca_file"], files["cert_file"], files["key_file"]
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"mqtt.ca_file {self.ca_file} cannot be used: {error}", hint="give certificates as PEM"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _careful_socket(frozenset(self.pins))
        if cert_file is not None:
            try:
                # A password, so that OpenSSL does not ask for one at the terminal; a key without one ignores it.
                context.load_cert_chain(cert_file, key_file, password="")
            except OSError as error:
                raise ConfigError(
                    f"mqtt.cert_file {self.cert_file} cannot be used with {self.key_file}: {error}",
                    hint="give a PEM certificate and its own key, without a passphrase",
                ) from error
        return context

    def check_files(self) -> None:
        """Try the password file and the certificates. Raises ConfigError that names the key."""
        self.password()
        self.tls_context()


def _path(key: str, name: str) -> Path:
    """The file behind a name or a ``credential:NAME``. Raises ConfigError where there is no such credential."""
    if not name.startswith(_CREDENTIAL):
        return Path(name)
    credential, folder = name.removeprefix(_CREDENTIAL), os.environ.get("CREDENTIALS_DIRECTORY")
    if not _CREDENTIAL_NAME.fullmatch(credential):
        raise ConfigError(f"mqtt.{key}: {credential!r} is no credential's name", hint="letters, digits, '.', '_', '-'")
    path = None if folder is None else Path(folder) / credential
    if path is None or not path.exists():
        raise ConfigError(
            f"mqtt.{key}: systemd has handed over no credential {credential!r}",
            code="SECRET",
            hint=f"LoadCredential={credential}:FILE in the unit; systemd-run -p LoadCredential=... for a command",
        )
    return path


def _careful_socket(pins: frozenset[str]) -> type[ssl.SSLSocket]:
    """A TLS socket that closes when its handshake fails; with ``pins`` it fails unless the certificate fits one.

    The paho client leaves such a socket to the garbage collector; until then the broker would hold a connection on
    which nothing will ever be said.
    """

    class CarefulSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                self._ask_for_pin()
            except BaseException:
                self.close()
                raise

        def _ask_for_pin(self) -> None:
            shown = fingerprints(self.getpeercert(binary_form=True) or b"") if pins else ()
            if pins and pins.isdisjoint(shown):
                raise ssl.SSLError(f"the broker's certificate is not a pinned one: {' '.join(shown)}")

    return CarefulSocket


def fingerprints(certificate: bytes) -> tuple[str, str]:
    """Of a certificate (DER), as ``pins`` has them: of the whole, and of its public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    key = load_der_x509_certificate(certificate).public_key()
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}", f"spki:{hashlib.sha256(public).hexdigest()}"


def _unreadable(key: str, path: str | Path, error: OSError) -> ConfigError:
    return ConfigError(f"mqtt.{key} {path} cannot be read: {error.strerror}", hint="check its name, owner and mode")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ConnectionOver(Exception):
    """A connection has ended, and why; ``refused``: the broker said no to the login."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Connection:
    """One connection to the broker, driven by the caller's thread alone, so that there is nothing to lock.

    Opens at once (at most CONNECT_TIMEOUT_S); raises OSError when nobody is there, ConfigError for unusable secrets.
    will: retained on the state topic by the broker when this connection ends impolitely; None for no will.
    will_topic: another topic, where the will is not retained.
    client_id: instead of the options' own, with which the broker would end the running daemon's connection.
    receive_bytes: largest message that the broker may send (MQTT 5; else it is cut off here, after it came).

    accepted: the login is through. window: messages the broker takes without a PUBACK in between.
    in_flight: message id -> when it was sent (CLOCK_MONOTONIC, s), for each without an answer.
    acked / refusals: message ids answered; subscribed: ids of subscriptions in force; received: (topic, payload,
    retained) of messages, at most RECEIVE_MOST; the owner empties all four.
    """

    def __init__(
        self,
        options: MqttOptions,
        will: bytes | None,
        *,
        ack_timeout_s: float,
        client_id: str | None = None,
        will_topic: str | None = None,
        receive_bytes: int = 0,
    ) -> None:
        self.accepted = False
        self.window = 0
        self.in_flight: dict[int, float] = {}
        self.acked: list[int] = []
        self.refusals: list[tuple[int, str]] = []
        self.subscribed: list[int] = []
        self.received: list[tuple[str, bytes, bool]] = []
        self._receive_bytes = receive_bytes
        self._ack_timeout_s = ack_timeout_s
        # paho looks at its keepalive only when told to, so it must be told several times within one.
        self._longest_wait_s = options.keepalive_s / 4
        self._failure: ConnectionOver | None = None
        self._v5 = options.version == 5
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or options.client_id or "edge-daemon-" + options.topic_root.replace("/", "-"),
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if self._v5 else True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the owner keeps the window; nothing may wait unseen inside paho
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        try:
            if will is not None:
                client.will_set(will_topic or options.topic("state"), will, qos=1, retain=will_topic is None)
            if options.username is not None:
                client.username_pw_set(options.username, options.password())
            context = options.tls_context()
            if context is not None:
                client.tls_set_context(context)
            self._opened_s = time.monotonic()
            if self._v5:
                properties = None
                if receive_bytes:
                    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                    properties.MaximumPacketSize = receive_bytes
                client.connect(options.host, options.port, options.keepalive_s, clean_start=True, properties=properties)
            else:
                client.connect(options.host, options.port, options.keepalive_s)
        except BaseException:
            self.close(politely=False)
            raise

    def pump(self, timeout_s: float, wake: socket.socket) -> None:
        """Move bytes for at most ``timeout_s``, or until ``wake`` can be read. Raises ConnectionOver."""
        sock: Any = self._client.socket()
        if sock is None:
            raise self._failure or ConnectionOver("the connection was closed")
        # TLS: bytes may wait inside the socket object, where the kernel cannot see them.
        buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        with selectors.PollSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._client.want_write() else 0)
            selector.register(sock, events)
            ready = {
                key.fd: mask for key, mask in selector.select(0 if buffered else min(timeout_s, self._longest_wait_s))
            }
        if wake.fileno() in ready:
            wake.recv(4096)
        mask = ready.get(sock.fileno(), 0)
        if buffered or mask & selectors.EVENT_READ:
            self._check(self._client.loop_read())
        if mask & selectors.EVENT_WRITE:
            self._check(self._client.loop_write())
        self._check(self._client.loop_misc())
        now_s = time.monotonic()
        if not self.accepted and now_s - self._opened_s > CONNECT_TIMEOUT_S:
            raise ConnectionOver("the broker took the connection but does not answer")
        if self.in_flight and now_s - min(self.in_flight.values()) > self._ack_timeout_s:
            raise ConnectionOver(f"the broker has not acknowledged a message for {self._ack_timeout_s:g} s")

    def subscribe(self, topic: str) -> int:
        """Ask for a topic (QoS 1); the id that comes in ``subscribed``. A broker works in order: by then it has taken
        everything that was published before, at QoS 0 as well. Raises ConnectionOver, also later when it refuses."""
        code, mid = self._client.subscribe(topic, qos=1)
        self._check(code)
        assert mid is not None
        self.in_flight[mid] = time.monotonic()
        return mid

    def send(self, topic: str, payload: bytes) -> None:
        """Hand one QoS 0 message over, of which nothing more will be heard. Raises ConnectionOver."""
        self._check(self._client.publish(topic, payload, qos=0, retain=False).rc)

    def publish(self, topic: str, payload: bytes, *, retain: bool, content: str = "application/json") -> int:
        """Hand one QoS 1 message over; the message id its answer will carry. Raises ConnectionOver."""
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        self._check(info.rc)
        self.in_flight[info.mid] = time.monotonic()
        return info.mid

    def close(self, *, politely: bool) -> None:
        """End the connection; only a polite end keeps the broker from sending the last will. Call once, at the end."""
        client = self._client
        if politely:
            client.disconnect()
        sock = client.socket()
        if sock is not None:
            sock.close()
        # The callbacks tie client and connection into a ring; without it paho's own sockets close right here.
        client.on_connect = client.on_publish = client.on_disconnect = client.on_subscribe = client.on_message = None

    def _check(self, code: MQTTErrorCode) -> None:
        if self._failure is not None:
            raise self._failure
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            text = paho.error_string(code).rstrip(".")
            raise ConnectionOver(f"{text[0].lower()}{text[1:]} ({code.name})")

    def _on_connect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._failure = ConnectionOver(f"the broker refuses the login: {reason}", refused=True)
            return
        self.accepted = True
        self.window = int(getattr(properties, "ReceiveMaximum", 65535))

    def _on_disconnect(
        self, _client: paho.Client, _data: object, flags: Any, reason: ReasonCode, _properties: object
    ) -> None:
        if self._failure is None and flags.is_disconnect_packet_from_server:
            self._failure = ConnectionOver(f"the broker ended the connection: {reason}")

    def _on_subscribe(
        self, _client: paho.Client, _data: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        self.in_flight.pop(mid, None)
        if any(reason.is_failure for reason in reasons):
            self._failure = ConnectionOver(f"the broker refuses a subscription: {reasons[0]}", refused=True)
        self.subscribed.append(mid)

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        fits = not self._receive_bytes or len(message.payload) <= self._receive_bytes
        if fits and len(self.received) < RECEIVE_MOST:
            self.received.append((topic, bytes(message.payload), message.retain))

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        if self.in_flight.pop(mid, None) is None:
            return  # answered twice: counted once
        if reason.is_failure:
            self.refusals.append((mid, str(reason)))
        else:
            self.acked.append(mid)
