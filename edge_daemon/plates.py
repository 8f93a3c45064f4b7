"""Make a demonstration reference set: eight simulated plates of one discontinuity, sealed. For the demo and for trials;
never an acceptance standard."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .images import make_folder, write_bytes_atomic, write_png_atomic
from .simulator import reference_plate

__all__ = ["make_plates"]

_MM_PER_PX = 0.1
_THICKNESS_MM = 6.35


def make_plates(folder: Path, discontinuity: str, *, seed: int = 0) -> str:
    """Write 1.png to 8.png and manifest.json into ``folder``; deterministic from the seed. Returns the set's SHA-256.

    The manifest comes last, so that a half-made set is no set. Raises StorageError.
    """
    make_folder(folder)
    files = {}
    for level in range(1, 9):
        path = folder / f"{level}.png"
        write_png_atomic(path, reference_plate(discontinuity, level, seed, mm_per_px=_MM_PER_PX).pixels)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "schema": 1,
        "set": "demo",
        "metal": "aluminum",
        "thickness_mm": _THICKNESS_MM,
        "discontinuity": discontinuity,
        "mm_per_px": _MM_PER_PX,
        "u_mm_per_px": 0.0,
        "licence": "Apache-2.0",
        "made_by": f"edge-daemon references make --discontinuity {discontinuity} --seed {seed}",
        "remark": "simulated, for demonstration: no acceptance standard",
        "files": files,
    }
    raw = (json.dumps(manifest, indent=1) + "\n").encode()
    write_bytes_atomic(folder / "manifest.json", raw)
    return hashlib.sha256(raw).hexdigest()
