"""Signatures: who answers for what decides a verdict. Ed25519, detached, over the seal that hashes every file.

A seal finds accidents; whoever can write a file can seal it again. A signature needs a key that is not on the device.
``signature.json`` lies beside what it signs:

    {"schema": 1, "kind": "engine", "signatures": [
        {"key": "ed25519:...", "sha256": "...", "signed_by": "Ada Example", "signed_utc": "...", "signature": "..."}]}

kind: ``engine`` (sha256 of manifest.json), ``references`` (the same), ``standard`` (over both files of a table) or
``plan`` (of the sidecar of a TensorRT plan). Kind, hash, name and time are all under the signature, so a signature fits
nothing else. Several people may sign; one trusted key is enough.

Not covered: an older version, once signed, stays signed: take its key out of the configuration, or sign the new one
with a new key. A stolen key signs well until then.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, IntegrityError, StorageError, UsageError
from .tickets import utc_now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "KINDS",
    "SIGNATURE",
    "Signature",
    "Trust",
    "make_key",
    "message_holds",
    "parse_public_key",
    "public_key_of",
    "read_signatures",
    "sign",
    "sign_message",
    "trust_of",
]

SIGNATURE = "signature.json"
KINDS = ("engine", "references", "standard", "plan")

_PREFIX = "ed25519:"
_CONTEXT = b"edge-daemon signature 1\n"
_MAX_BYTES = 65536
_MOST_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, when, with which public key (``ed25519:...``), and the SHA-256 that was signed."""

    key: str
    sha256: str
    signed_by: str
    signed_utc: str
    signature: bytes

    def holds(self, kind: str) -> bool:
        """Whether the signature fits these words, this hash and this key. Says nothing about trust in the key."""
        return message_holds(self.key, self.signature, _message(kind, self.sha256, self.signed_by, self.signed_utc))


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom this device believes. keys: public keys. required: nothing unsigned is used (``[security] production``)."""

    keys: tuple[str, ...] = ()
    required: bool = False

    def check(self, kind: str, path: Path, sha256: str) -> Signature | None:
        """The trusted signature of ``sha256`` in the file ``path``.

        None where none is required: nobody is trusted, there is none, or it is by somebody else. Raises IntegrityError:
        UNSIGNED (no signature), UNTRUSTED (by no trusted key), SIGNATURE (it does not fit what lies there, also where
        none is required: that is a change).
        """
        if not self.required and not self.keys:
            return None
        what = str(path.parent) if path.name == SIGNATURE else str(path)
        if not path.exists() and not path.is_symlink():
            if not self.required:
                return None
            raise IntegrityError(
                f"{what} is not signed, and [security] production = true",
                code="UNSIGNED",
                hint=f"sign it on the machine that holds the key: {_COMMANDS[kind]}",
            )
        signatures = read_signatures(path, kind)
        fitting = [one for one in signatures if one.sha256 == sha256 and one.holds(kind)]
        trusted = next((one for one in fitting if one.key in self.keys), None)
        if trusted is not None:
            return trusted
        if not fitting:
            raise IntegrityError(
                f"{what} was changed after it was signed, or its signature was",
                code="SIGNATURE",
                hint="restore it from its original, or look at the change and sign again",
            )
        if not self.required:
            return None
        raise IntegrityError(
            f"{what} is signed by {fitting[0].signed_by!r} with {fitting[0].key}, which is not trusted here",
            code="UNTRUSTED",
            hint="have it signed with a key of [security] trusted_keys, or add this one if you know whose it is",
        )


_COMMANDS = {
    "engine": "edge-daemon engine sign NAME --key FILE --by NAME",
    "references": "edge-daemon references sign NAME --key FILE --by NAME",
    "standard": "edge-daemon standards sign NAME --key FILE --by NAME",
    "plan": "edge-daemon engine build NAME --key FILE --by NAME",
}


# ---- keys ----------------------------------------------------------------------------------------------------------


def _raw_key(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if not text.startswith(_PREFIX) or len(raw) != 32:
        raise ValueError("not a public key")
    return raw


def parse_public_key(text: str) -> str:
    """``ed25519:BASE64``, with or without a comment behind a space; the key without it. Raises UsageError."""
    key = text.split(" ", 1)[0]
    try:
        return _PREFIX + base64.b64encode(_raw_key(key)).decode()
    except ValueError:
        raise UsageError(
            f"{text!r} is no public key", hint="ed25519:... as `edge-daemon keys show FILE` prints it"
        ) from None


def make_key(path: Path) -> str:
    """Make a private key in a new file that only its owner can read; returns the public key.

    Raises UsageError when the file exists, StorageError.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists", hint="a key is never overwritten; choose another name") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from None
    with open(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return _public_text(key)


def _public_text(key: Ed25519PrivateKey) -> str:
    return _PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    hint = "make one: edge-daemon keys make --out FILE"
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{path} can be read by others than its owner", code="SECRET", hint=f"chmod 600 {path}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"{path} is no private key without a passphrase", hint=hint) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key", hint=hint)
    return key


def public_key_of(path: Path) -> str:
    """The public key of a private key file. Raises ConfigError, also where others may read the file."""
    return _public_text(_private_key(path))


def message_holds(key: str, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is this key's over ``message``; False also for what is no key or no signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw_key(key)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_message(key_file: Path, message: Callable[[str], bytes]) -> tuple[str, bytes]:
    """(public key, signature) over what ``message`` makes of the public key. Raises ConfigError."""
    private = _private_key(key_file)
    key = _public_text(private)
    return key, private.sign(message(key))


# ---- signatures ----------------------------------------------------------------------------------------------------


def _message(kind: str, sha256: str, signed_by: str, signed_utc: str) -> bytes:
    words = {"kind": kind, "sha256": sha256, "signed_by": signed_by, "signed_utc": signed_utc}
    return _CONTEXT + json.dumps(words, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def read_signatures(path: Path, kind: str) -> tuple[Signature, ...]:
    """The signatures in a file, not yet checked. Raises IntegrityError for anything that is not such a file."""
    wrong = IntegrityError(
        f"{path} is no signature of kind {kind!r}", code="SIGNATURE", hint="restore it, or remove it and sign again"
    )
    try:
        # O_NONBLOCK so that a FIFO under this name cannot hold the daemon up.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise wrong
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}", code="SIGNATURE", hint=wrong.hint) from None
    try:
        document = json.loads(data.decode("utf-8")) if len(data) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(document, dict) or document.get("schema") != 1 or document.get("kind") != kind:
        raise wrong
    entries = document.get("signatures")
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MOST_SIGNATURES:
        raise wrong
    try:
        return tuple(_entry(one) for one in entries)
    except ValueError:
        raise wrong from None


def _entry(entry: Any) -> Signature:
    names = ("key", "sha256", "signed_by", "signed_utc", "signature")
    if not isinstance(entry, dict) or set(entry) != set(names) or not all(isinstance(entry[n], str) for n in names):
        raise ValueError("not a signature")
    words = {name: entry[name] for name in names[:4]}
    return Signature(**words, signature=base64.b64decode(entry["signature"], validate=True))


def sign(kind: str, path: Path, sha256: str, *, key_file: Path, signed_by: str) -> Signature:
    """Sign ``sha256`` into ``path``, beside signatures of the same content by other keys; older ones are dropped.

    Raises ConfigError (key), UsageError (no name), StorageError.
    """
    if kind not in KINDS or not signed_by.strip() or not signed_by.isprintable() or len(signed_by) > 200:
        raise UsageError("a signature needs the name of who signs", hint="--by 'Ada Example'")
    private = _private_key(key_file)
    signed_utc, key = utc_now(), _public_text(private)
    made = Signature(key, sha256, signed_by, signed_utc, private.sign(_message(kind, sha256, signed_by, signed_utc)))
    kept: list[Signature] = []
    if path.exists():
        with suppress(IntegrityError):  # what cannot be read is replaced
            kept = [one for one in read_signatures(path, kind) if one.sha256 == sha256 and one.key != key]
    entries = [
        {
            "key": one.key,
            "sha256": one.sha256,
            "signed_by": one.signed_by,
            "signed_utc": one.signed_utc,
            "signature": base64.b64encode(one.signature).decode(),
        }
        for one in [*(one for one in kept if one.holds(kind)), made][-_MOST_SIGNATURES:]
    ]
    document = {"schema": 1, "kind": kind, "signatures": entries}
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # tidying up only; the error that counts is raised below
            part.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror}", hint="grant write access") from None
    return made


def trust_of(keys: Sequence[str], *, required: bool) -> Trust:
    """A Trust of public keys as people write them. Raises UsageError for what is no key, and for a trust in nobody."""
    trust = Trust(tuple(parse_public_key(one) for one in keys), required)
    if required and not trust.keys:
        raise UsageError("production = true trusts nobody", hint='add trusted_keys = ["ed25519:..."]')
    return trust
