"""Sessions, and how often somebody may ask: in memory, so that a restart logs everybody out.

A session is known by a random cookie of which only the hash is kept. Every form carries the session's own CSRF token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["RateLimiter", "Session", "Sessions", "Throttle"]

_IDLE_S = 8 * 3600.0
_LONGEST_S = 24 * 3600.0
_MOST_SESSIONS = 500
_MOST_OF_A_USER = 40
#: Anybody may try any name: waiting for a name alone must not become a way to lock its owner out.
_LONGEST_WAIT_S, _LONGEST_WAIT_FOR_A_NAME_S = 900.0, 20.0


@dataclass(slots=True)
class Session:
    """One logged-in browser. key: names it inside the program; never sent anywhere."""

    key: str
    user: str
    role: str
    csrf: str
    opened_s: float
    seen_s: float

    def owns(self, token: str) -> bool:
        """Whether a form's token is this session's."""
        return hmac.compare_digest(token.encode(errors="replace"), self.csrf.encode())


class Sessions:
    """All sessions. Any thread. clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def open(self, user: str, role: str) -> tuple[str, Session]:
        """A new session and its cookie; where there are too many, the oldest makes room, of the same user first."""
        cookie, now_s = secrets.token_urlsafe(32), self._clock()
        key = _key(cookie)
        session = Session(key, user, role, secrets.token_urlsafe(24), now_s, now_s)
        with self._lock:
            self._forget_old(now_s)
            self._make_room([key for key, one in self._sessions.items() if one.user == user], _MOST_OF_A_USER)
            self._make_room(list(self._sessions), _MOST_SESSIONS)
            self._sessions[key] = session
        return cookie, session

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie, None where it has ended."""
        if not cookie:
            return None
        now_s = self._clock()
        with self._lock:
            session = self._sessions.get(_key(cookie))
            if session is None or self._over(session, now_s):
                self._sessions.pop(_key(cookie), None)
                return None
            session.seen_s = now_s
            return session

    def close(self, key: str) -> None:
        """End one session."""
        with self._lock:
            self._sessions.pop(key, None)

    def close_user(self, user: str) -> None:
        """End every session of a user, whose role or password has changed."""
        with self._lock:
            self._sessions = {key: one for key, one in self._sessions.items() if one.user != user}

    def count(self) -> int:
        """How many are open."""
        with self._lock:
            self._forget_old(self._clock())
            return len(self._sessions)

    def _make_room(self, keys: list[str], most: int) -> None:
        """End those of these sessions that were seen longest ago, until there are fewer than ``most``."""
        keys.sort(key=lambda key: self._sessions[key].seen_s)
        for key in keys[: max(0, len(keys) - most + 1)]:
            del self._sessions[key]

    @staticmethod
    def _over(session: Session, now_s: float) -> bool:
        return now_s - session.seen_s > _IDLE_S or now_s - session.opened_s > _LONGEST_S

    def _forget_old(self, now_s: float) -> None:
        for key in [key for key, one in self._sessions.items() if self._over(one, now_s)]:
            del self._sessions[key]


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


class RateLimiter:
    """So many at once and so many a second, for each of at most ``most_keys`` askers (a token bucket each)."""

    def __init__(
        self, burst: float, per_s: float, *, most_keys: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._per_s, self._most_keys, self._clock = burst, per_s, most_keys, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, key: str) -> bool:
        """Take one; False where there is none left."""
        now_s = self._clock()
        with self._lock:
            left, at_s = self._buckets.pop(key, (self._burst, now_s))
            left = min(self._burst, left + (now_s - at_s) * self._per_s)
            while len(self._buckets) >= self._most_keys:  # the one that has asked least recently
                del self._buckets[next(iter(self._buckets))]
            self._buckets[key] = (left - 1.0 if left >= 1.0 else left, now_s)
            return left >= 1.0


@dataclass(slots=True)
class _Failures:
    count: int = 0
    until_s: float = 0.0


@dataclass(slots=True)
class Throttle:
    """Tries to log in: from the fourth on each doubles the wait, up to a quarter of an hour; for a key that begins with
    ``name``, which anybody may try, up to 20 seconds. A try counts when it begins, so that many at once win nothing."""

    clock: Callable[[], float] = time.monotonic
    _failures: dict[str, _Failures] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_s(self, *keys: str) -> float:
        """Seconds until somebody may try again; 0 at once."""
        with self._lock:
            now_s = self.clock()
            return max(0.0, *(self._failures[key].until_s - now_s for key in keys if key in self._failures), 0.0)

    def failed(self, *keys: str) -> None:
        """One more try that has not been right yet."""
        with self._lock:
            for key in keys:
                one = self._failures.pop(key, None) or _Failures()
                self._failures[key] = one  # at the end: those that were tried longest ago make room
                one.count += 1
                longest_s = _LONGEST_WAIT_FOR_A_NAME_S if key.startswith("name ") else _LONGEST_WAIT_S
                if one.count > 3:
                    one.until_s = self.clock() + min(longest_s, 2.0 ** min(one.count - 3, 16))
            while len(self._failures) > 4096:
                del self._failures[next(iter(self._failures))]

    def succeeded(self, *keys: str) -> None:
        """Forget the failures."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)
