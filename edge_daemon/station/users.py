"""Who may use the page: a small file of names, roles and scrypt hashes. No password is ever kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UsageError
from ..images import write_bytes_atomic
from ..tickets import utc_now

__all__ = ["LEAST_PASSWORD", "LOCAL_USER", "ROLES", "User", "Users", "may", "password_flaw"]

#: From the least to the most that one may do; each may do what those before it may.
ROLES = ("operator", "inspector", "administrator")
LEAST_PASSWORD, _LONGEST_PASSWORD = 12, 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
#: RFC 7914; 2^15 x 8 x 128 bytes = 32 MiB and about 80 ms a try.
_N, _R, _P = 2**15, 8, 1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class User:
    """One person. role: one of ``ROLES``. salt, hash: hexadecimal, of scrypt with n, r, p."""

    name: str
    role: str
    salt: str = ""
    hash: str = ""
    n: int = _N
    r: int = _R
    p: int = _P
    created_utc: str = ""


#: Whoever knows the token of a page on loopback.
LOCAL_USER = User("local", "administrator")


def may(role: str, least: str) -> bool:
    """Whether a role may do what is left to ``least`` and above."""
    return ROLES.index(role) >= ROLES.index(least)


def password_flaw(name: str, password: str) -> str:
    """What is wrong with a password for this user: ``short``, ``long``, ``name``; "" where nothing is."""
    if len(password) < LEAST_PASSWORD:
        return "short"
    if len(password) > _LONGEST_PASSWORD:
        return "long"
    return "name" if password.strip().lower() == name.lower() else ""


def _hash(password: str, salt: bytes, n: int, r: int, p: int) -> str:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 << 20, dklen=32).hex()


class Users:
    """The file of users. Any thread; every change is written whole, readable by its owner only. What another process
    has written since, such as ``--add-user`` beside the page, is read before anything is looked up or changed; a file
    that has gone is written anew at the next change.

    ``noted`` of a change is called when it is known to be possible and before it is written: where it raises, as where
    the audit trail cannot be written, nothing is changed.

    Raises ConfigError for a file that is not one, UsageError for a name, role or password that cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[int, int, int] | None = _version(path)
        self._users = _load(path)

    def list(self) -> tuple[User, ...]:
        """Everybody, by name."""
        with self._lock:
            self._refresh()
            return tuple(sorted(self._users.values(), key=lambda one: one.name))

    def get(self, name: str) -> User | None:
        """The user of that name."""
        with self._lock:
            self._refresh()
            return self._users.get(name)

    def check(self, name: str, password: str) -> User | None:
        """The user, if the password is theirs. Takes as long for a name that does not exist."""
        user = self.get(name)
        known = user or User("", "operator", salt="00" * 16, hash="00" * 32)
        found = _hash(password[:_LONGEST_PASSWORD], bytes.fromhex(known.salt), known.n, known.r, known.p)
        return user if hmac.compare_digest(found, known.hash) and user is not None else None

    def add(self, name: str, role: str, password: str, noted: Callable[[], object] = lambda: None) -> User:
        """A new user."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a user's name", hint="letters, digits, dot, dash, @; at most 64")
        user = self._with_password(User(name, _role(role), created_utc=utc_now()), password)
        with self._lock:
            self._refresh()
            if name in self._users:
                raise UsageError(f"there is a user {name} already", hint="choose another name")
            noted()
            self._write({**self._users, name: user})
        return user

    def change(
        self, name: str, *, role: str | None = None, password: str | None = None,
        noted: Callable[[], object] = lambda: None,
    ) -> User:  # fmt: skip
        """Another role or password. The last administrator stays one."""
        with self._lock:
            user = before = self._known(name)
        if role is not None:
            user = replace(user, role=_role(role))
        if password is not None:
            user = self._with_password(user, password)
        with self._lock:
            if self._known(name) != before:
                raise UsageError(f"{name} was changed by somebody else just now", hint="look again")
            users = self._with_an_administrator({**self._users, name: user})
            noted()
            self._write(users)
        return user

    def change_own(
        self, name: str, present: str, password: str, noted: Callable[[], object] = lambda: None
    ) -> User | None:  # fmt: skip
        """Another password by whoever knows the present one; None where it is not that, and nothing is changed."""
        before = self.check(name, present)
        if before is None:
            return None
        user = self._with_password(before, password)
        with self._lock:
            if self._known(name) != before:
                raise UsageError(f"{name} was changed by somebody else just now", hint="log in again")
            noted()
            self._write({**self._users, name: user})
        return user

    def remove(self, name: str, noted: Callable[[], object] = lambda: None) -> None:
        """Away with a user; never the last administrator."""
        with self._lock:
            self._known(name)
            users = self._with_an_administrator({k: v for k, v in self._users.items() if k != name})
            noted()
            self._write(users)

    def _refresh(self) -> None:
        """Under the lock."""
        now = _version(self.path)
        if now is not None and now != self._read:
            self._users = _load(self.path)
            self._read = now

    def _known(self, name: str) -> User:
        """Under the lock."""
        self._refresh()
        if name not in self._users:
            raise UsageError(f"there is no user {name}", hint="see the list of users")
        return self._users[name]

    @staticmethod
    def _with_password(user: User, password: str) -> User:
        flaw = password_flaw(user.name, password)
        if flaw == "short":
            raise UsageError(f"the password is shorter than {LEAST_PASSWORD} characters", hint="a sentence is easy")
        if flaw:
            raise UsageError("this cannot be a password", hint="up to 1,024 characters, and not the name")
        salt = secrets.token_bytes(16)
        return replace(user, salt=salt.hex(), hash=_hash(password, salt, _N, _R, _P), n=_N, r=_R, p=_P)

    @staticmethod
    def _with_an_administrator(users: dict[str, User]) -> dict[str, User]:
        if not any(one.role == "administrator" for one in users.values()):
            raise UsageError("that would leave no administrator", hint="make another one first")
        return users

    def _write(self, users: dict[str, User]) -> None:
        """Under the lock."""
        document = {"schema": 1, "users": [asdict(one) for _, one in sorted(users.items())]}
        before = os.umask(0o077)
        try:
            write_bytes_atomic(self.path, (json.dumps(document, indent=1) + "\n").encode())
        finally:
            os.umask(before)
        self._users, self._read = users, _version(self.path)


def _role(role: str) -> str:
    if role not in ROLES:
        raise UsageError(f"{role!r} is no role", hint="one of: " + ", ".join(ROLES))
    return role


def _checked(user: User) -> User:
    """A user as read from the file. Raises ValueError for one that this module cannot have written."""
    good = _NAME.fullmatch(user.name) and user.role in ROLES and 2**14 <= user.n <= 2**20
    if (
        not good
        or (user.r, user.p) != (_R, _P)
        or [len(bytes.fromhex(one)) for one in (user.salt, user.hash)] != [16, 32]
    ):
        raise ValueError(f"user {user.name!r}")
    return user


def _version(path: Path) -> tuple[int, int, int] | None:
    """What differs between two states of a file that is always written whole; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(path: Path) -> dict[str, User]:
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: larger than 1 MiB, so it is no file of users")
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        users = [_checked(User(**one)) for one in document["users"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is no file of users: {error}", hint="make one with --add-user") from None
    return {one.name: one for one in users}
