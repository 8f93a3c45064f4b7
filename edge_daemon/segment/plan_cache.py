"""Where TensorRT plans lie, and what makes one fit to serve.

A plan is machine code for one GPU, one TensorRT and one model. It lies outside the bundle as ``<name>-<key>.plan``,
beside a sealed JSON sidecar with the parts of its key, its own SHA-256 and the verdict of the parity gate, and where
somebody signed it ``<name>-<key>.signature.json``, which signs the sidecar. A plan's bytes are hashed before anything
interprets them: deserialising a plan runs what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, EngineError, IntegrityError, StorageError
from ..signing import Signature, Trust, sign
from ..tickets import utc_now
from .bundle import Bundle
from .parity import ParityReport
from .sealed import open_document, seal_document, sha256_hex, write_atomically

__all__ = [
    "PlanKey",
    "StoredPlan",
    "read_plan",
    "read_sidecar",
    "sign_plan",
    "signature_path",
    "store_parity",
    "write_plan",
]

_SCHEMA = 1
_REBUILD = "run `edge-daemon engine build` on this machine"

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on; another value of any part is another plan.

    driver: the CUDA version that the driver offers (what pycuda can ask for), not the driver's build number.
    precision: ``fp16``, or ``onnx-types`` where TensorRT takes each tensor's type from the model.
    shapes: smallest, tuned-for and largest input (N, C, H, W).
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    driver: str
    onnx_sha256: str
    precision: str
    shapes: tuple[Shape, Shape, Shape]

    def parts(self) -> dict[str, Any]:
        """The key's parts as plain JSON."""
        return {**asdict(self), "shapes": [list(shape) for shape in self.shapes]}

    @property
    def digest(self) -> str:
        """SHA-256 over all parts."""
        return sha256_hex(json.dumps(self.parts(), sort_keys=True, ensure_ascii=True).encode())

    def path(self, cache_dir: Path, bundle: Bundle) -> Path:
        """Where the plan lies; its sidecar has the suffix ``.json`` instead."""
        return cache_dir / f"{bundle.name}-{self.digest[:16]}.plan"

    def obstacle(self, cache_dir: Path, bundle: Bundle) -> str | None:
        """Why the plan of this key may not serve ``bundle``, one sentence; None if it may.

        Raises IntegrityError for a sidecar that is not what was written.
        """
        path = self.path(cache_dir, bundle)
        if not path.exists() or not path.with_suffix(".json").exists():
            return f"no plan for {bundle.name} on {self.gpu} with TensorRT {self.tensorrt} has been built"
        parity = read_sidecar(cache_dir, bundle, self)["parity"]
        if parity is None:
            return f"the plan of {bundle.name} has not been through the parity gate"
        if parity["bundle_sha256"] != bundle.sha256:
            return f"the plan of {bundle.name} passed the parity gate with another version of the bundle"
        if parity["passed"] is not True:
            return f"the plan of {bundle.name} failed the parity gate: {'; '.join(parity['reasons'])}"
        return None


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan whose bytes were checked against its sidecar."""

    data: bytes
    sha256: str
    sidecar: Mapping[str, Any]


def write_plan(cache_dir: Path, bundle: Bundle, key: PlanKey, plan: bytes, note: str) -> None:
    """Store a freshly built plan, without a parity verdict: it may not serve yet.

    Raises ConfigError if the cache lies inside the bundle (which would break its seal), StorageError.
    """
    if cache_dir.absolute().resolve().is_relative_to(bundle.folder.resolve()):
        raise ConfigError(f"plan cache {cache_dir} lies inside the bundle", hint="use a folder outside engines/")
    path = key.path(cache_dir, bundle)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)  # a crash from here on leaves a plan that cannot serve
    except OSError as error:
        raise StorageError(f"{cache_dir} cannot be written: {error.strerror}", hint="grant write access") from None
    write_atomically(path, plan)
    sidecar = {
        "schema": _SCHEMA,
        "key": key.digest,
        "parts": key.parts(),
        "plan_sha256": sha256_hex(plan),
        "built_utc": utc_now(),
        "note": note,
        "parity": None,
    }
    write_atomically(path.with_suffix(".json"), seal_document(sidecar, str(path.with_suffix(".json"))))


def read_sidecar(cache_dir: Path, bundle: Bundle, key: PlanKey, trust: Trust | None = None) -> dict[str, Any]:
    """The verified sidecar. Raises IntegrityError: missing, changed, of another key, not signed as asked."""
    path = key.path(cache_dir, bundle).with_suffix(".json")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}", hint=_REBUILD) from None
    sidecar = open_document(data, str(path))
    if trust is not None:
        trust.check("plan", signature_path(cache_dir, bundle, key), sha256_hex(data))
    if sidecar.get("schema") != _SCHEMA or sidecar.get("key") != key.digest or sidecar.get("parts") != key.parts():
        raise IntegrityError(f"{path} belongs to another machine, TensorRT or model", hint=_REBUILD)
    return sidecar


def signature_path(cache_dir: Path, bundle: Bundle, key: PlanKey) -> Path:
    """Where the signature of a plan lies."""
    return key.path(cache_dir, bundle).with_suffix(".signature.json")


def sign_plan(cache_dir: Path, bundle: Bundle, key: PlanKey, *, key_file: Path, signed_by: str) -> Signature:
    """Sign the sidecar, and with it the plan's hash and the parity gate's verdict. Raises as ``signing.sign``."""
    read_sidecar(cache_dir, bundle, key)
    data = key.path(cache_dir, bundle).with_suffix(".json").read_bytes()
    where = signature_path(cache_dir, bundle, key)
    return sign("plan", where, sha256_hex(data), key_file=key_file, signed_by=signed_by)


def read_plan(cache_dir: Path, bundle: Bundle, key: PlanKey, trust: Trust | None = None) -> StoredPlan:
    """The plan's bytes, read once and checked, with ``trust`` also who signed them.

    Raises EngineError (code NO_PLAN) or IntegrityError.
    """
    path = key.path(cache_dir, bundle)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EngineError(f"{path} has not been built", code="NO_PLAN", hint=_REBUILD) from None
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}", hint=_REBUILD) from None
    sidecar = read_sidecar(cache_dir, bundle, key, trust)
    if sidecar["plan_sha256"] != sha256_hex(data):
        raise IntegrityError(f"{path} was changed after it was built", hint=_REBUILD)
    return StoredPlan(data, sidecar["plan_sha256"], sidecar)


def store_parity(cache_dir: Path, bundle: Bundle, key: PlanKey, plan_sha256: str, report: ParityReport) -> None:
    """Write the gate's verdict into the sidecar. plan_sha256: of the plan that was tested.

    Raises IntegrityError if another plan lies there by now.
    """
    sidecar = read_sidecar(cache_dir, bundle, key)
    path = key.path(cache_dir, bundle).with_suffix(".json")
    if sidecar["plan_sha256"] != plan_sha256:
        raise IntegrityError(f"{path} belongs to another plan than was tested", hint=_REBUILD)
    write_atomically(path, seal_document({**sidecar, "parity": report.to_json()}, str(path)))
