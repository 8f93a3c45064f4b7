"""Does the certificate still speak of this line? The drift alarm's keeper in a running station.

It looks at each judged frame behind the line (never in the way of a verdict) and, once the alarm has fired, says so
until the bundle is certified again: the withdrawal is kept in a small file, so that a restart does not bring a lapsed
promise back.

    valid is True     claims, drift scores, no alarm
    valid is False    withdrawn; ``notice`` says since when and why
    valid is None     nothing to watch over; ``why_off`` says why
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, StorageError
from ..logs import log
from ..records import Reason
from .bundle import Bundle
from .claims import read_claims
from .drift import ALARM_LN, STATISTICS, DriftReference, DriftState, frame_scores
from .sealed import write_atomically

__all__ = ["WITHDRAWN", "ClaimWatch", "require_claims"]

#: Code of the notice, and of the reason where a site demands a certificate.
WITHDRAWN = "CERTIFICATE_WITHDRAWN"


def require_claims(bundle: Bundle, where: str) -> None:
    """Raise ConfigError unless the bundle has claims that a drift alarm can watch over. where: who demands it."""
    why = _off(bundle)[1]
    if why:
        raise ConfigError(
            f"{where}: require_certificate: {why}", hint="edge-daemon engine certify BUNDLE --on DIR --seal"
        )


def _off(bundle: Bundle) -> tuple[DriftReference | None, str]:
    """(what to watch with, why nothing is watched)."""
    try:
        claims = read_claims(bundle)
        if claims is None:
            return None, f"{bundle.name} was never certified"
        if claims.drift is None:
            return None, f"the certificate of {bundle.name} has no drift scores"
        reference = DriftReference.from_document(claims.drift)
    except ConfigError as error:
        return None, str(error)
    if reference.names != STATISTICS:
        return None, f"the drift scores of {bundle.name} are those of another version: {', '.join(reference.names)}"
    return reference, ""


class ClaimWatch:
    """One bundle's claims on one line. ``look`` is called by one thread; everything else from any.

    marker: JSON file of withdrawals by bundle hash, None where none is kept.
    A marker that cannot be read counts as a withdrawal: a promise whose fate is unknown is none. Where it cannot be
    written over either, ``withdraw`` says so and the withdrawal lives as long as the process.
    """

    def __init__(self, bundle: Bundle, marker: Path | None = None) -> None:
        self._sha256, self._marker = bundle.sha256, marker
        reference, self.why_off = _off(bundle)
        self._state = None if reference is None else DriftState(reference, seed=secrets.randbits(64))
        self._notice: Reason | None = None
        if self._state is not None:
            self._recall_withdrawal()

    @property
    def valid(self) -> bool | None:
        """Whether the claims hold; None where nothing watches over them."""
        return None if self._state is None else self._notice is None

    @property
    def log_martingale(self) -> float | None:
        """ln of the martingale (the alarm is at 6.9), None where nothing is watched."""
        return None if self._state is None else self._state.log_martingale

    def notice(self) -> Reason | None:
        """Why the claims are withdrawn; None while they hold, or where there are none."""
        return self._notice

    def update(self, pixels: NDArray[Any], coverage: NDArray[np.float32] | None, now_utc: str) -> bool:
        """Look at one judged frame; True when the alarm fires with it.

        pixels: as the camera gave them. coverage: the engine's, None for a frame that it was not shown, which says
        nothing here. Raises StorageError when the withdrawal cannot be kept; it holds in this process all the same.
        """
        if self._state is None or self._notice is not None or coverage is None:
            return False
        self._state.update(frame_scores(pixels, coverage))
        if not self._state.alarmed:
            return False
        self.withdraw(
            f"frames are no longer like those it was made from (drift alarm after {self._state.frames} frames, "
            f"ln martingale {self._state.log_martingale:.1f} of {ALARM_LN:.1f})",
            now_utc,
        )
        return True

    def look(self, pixels: NDArray[Any], coverage: NDArray[np.float32] | None, now_utc: str) -> None:
        """``update`` that raises nothing and logs what there is to say: its trouble is never the part's. Claims that
        cannot be watched over are withdrawn."""
        before = self._notice
        try:
            try:
                self.update(pixels, coverage, now_utc)
            except (ArithmeticError, LookupError, TypeError, ValueError, cv2.error) as error:
                self.withdraw(f"a frame's figures could not be computed ({type(error).__name__}: {error})", now_utc)
        except StorageError as error:
            log("withdrawal_not_kept", f"after a restart the withdrawal is forgotten: {error}", level=40)
        if before is None and self._notice is not None:
            log("certificate_withdrawn", self._notice.text, level=40, code=self._notice.code)

    def withdraw(self, why: str, now_utc: str) -> None:
        """Withdraw the claims for as long as this bundle is installed. Raises StorageError as ``update`` does."""
        text = f"the claims of the engine's certificate are withdrawn since {now_utc}: {why}"
        self._notice = Reason(WITHDRAWN, text)
        if self._marker is not None:
            entries = dict(self._entries())
            entries[self._sha256] = {"since_utc": now_utc, "text": text}
            write_atomically(self._marker, (json.dumps(entries, indent=1) + "\n").encode())

    def _entries(self) -> Mapping[str, Any]:
        if self._marker is None or not self._marker.exists():
            return {}
        try:
            document = json.loads(self._marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"{self._marker} cannot be read: {error}", hint="restore it, or certify again") from None
        if not isinstance(document, dict):
            raise StorageError(f"{self._marker} is no list of withdrawals", hint="restore it, or certify again")
        return document

    def _recall_withdrawal(self) -> None:
        try:
            entry = self._entries().get(self._sha256)
        except StorageError as error:
            self._notice = Reason(WITHDRAWN, f"whether the claims were withdrawn cannot be told: {error.message}")
            return
        if entry is not None:
            text = entry.get("text") if isinstance(entry, dict) else None
            self._notice = Reason(WITHDRAWN, str(text or "the claims of the engine's certificate are withdrawn"))
