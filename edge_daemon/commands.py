"""Commands from the plant's network: pause, resume, another recipe. Signed, once, fresh, and put into the audit trail.

A command is one JSON object (QoS 1, not retained) on ``{root}/inspection/command``:

    {"schema": 1, "id": "...", "station": "cell-1", "command": "recipe", "recipe": "housing-b",
     "by": "Ann Example", "why": "order 4711", "issued_utc": "2026-01-31T08:15:30.250Z",
     "key": "ed25519:...", "signature": "base64"}

``make_command`` (``edge-daemon command``) makes one. The signature is Ed25519 over the canonical JSON of everything
else, so that the broker, and whoever may write to it, can neither make nor change a command. It is obeyed only when its
key stands in ``[commands] trusted_keys``, it is meant for this station, was issued at most ``window`` ago, and later
than every command of that key before it (which is kept in the audit trail: a recorded command is never obeyed twice,
also after a restart). The answer comes as an ``event``.

Fail-safe: a pause is obeyed at once, even where the audit trail cannot be written or a recipe is just being proven, and
outlives a restart; a resume or a recipe is obeyed only after its entry is in the audit trail. What is not surely a
command changes nothing.
"""

from __future__ import annotations

import base64
import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import EdgeError, StorageError, UsageError
from .logs import log
from .memory import Chained, MemoryBank
from .mqtt import Connection, MqttOptions
from .mqtt_thread import MqttThread
from .signing import message_holds, sign_message
from .tickets import utc_now

__all__ = ["COMMANDS", "Command", "CommandListener", "CommandOptions", "RecipeChoice", "make_command", "read_command"]

COMMANDS = ("pause", "resume", "recipe")
MAX_COMMAND_BYTES = 8192

_CONTEXT = b"edge-daemon command 1\n"
_KIND = "command"
_TEXT_KEYS = ("id", "station", "command", "recipe", "by", "why", "issued_utc", "key", "signature")
_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_COMPLAIN_S = 60.0  # nonsense on the topic is logged once a minute
_AHEAD_S = 5.0  # how far the sender's clock may be ahead of ours


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """A recipe that may be asked for by its name (the file's, without ``.toml``), and what the PLC calls it."""

    name: str
    path: Path
    number: int | None


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """trusted_keys: whose commands are obeyed. recipes: what may be asked for. window_s: how old a command may be."""

    trusted_keys: tuple[str, ...]
    recipes: tuple[RecipeChoice, ...]
    window_s: float


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose signature holds; whether it may be obeyed is another matter. recipe: "" where none belongs."""

    id: str
    station: str
    command: str
    recipe: str
    by: str
    why: str
    issued_utc: str
    key: str


class CommandRefused(Exception):
    """Why a signed command is not obeyed: a code for machines, a sentence for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _signed_bytes(document: Mapping[str, Any]) -> bytes:
    body = {key: value for key, value in document.items() if key != "signature"}
    return _CONTEXT + json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def make_command(
    command: str, *, station: str, by: str, why: str, key_file: Path, recipe: str = "", issued_utc: str | None = None
) -> bytes:
    """The bytes to publish. Raises UsageError for words that make no sense, ConfigError for the key."""
    document: dict[str, Any] = {
        "schema": 1, "id": str(uuid.uuid4()), "station": station, "command": command, "recipe": recipe, "by": by,
        "why": why, "issued_utc": issued_utc or utc_now(), "key": "", "signature": "",
    }  # fmt: skip
    document["key"], signature = sign_message(key_file, lambda key: _signed_bytes({**document, "key": key}))
    document["signature"] = base64.b64encode(signature).decode()
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    read_command(data)
    return data


def read_command(data: bytes) -> Command:
    """A command from its bytes, its signature checked against the key it names. Raises UsageError for all else."""
    hint = "edge-daemon commands sign makes one"
    if len(data) > MAX_COMMAND_BYTES:
        raise UsageError(f"a command of {len(data)} bytes", hint=f"at most {MAX_COMMAND_BYTES}")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UsageError("a command that is not JSON", hint=hint) from None
    if not isinstance(document, dict) or set(document) != {"schema", *_TEXT_KEYS} or document["schema"] != 1:
        raise UsageError("a command with other keys than schema 1 has", hint=hint)
    words = {key: document[key] for key in _TEXT_KEYS}
    if not all(isinstance(value, str) and len(value) <= 500 for value in words.values()):
        raise UsageError("a command whose values are not short texts", hint=hint)
    if not _ID.fullmatch(words["id"]) or not _UTC.fullmatch(words["issued_utc"]) or words["command"] not in COMMANDS:
        raise UsageError(
            f"a command {words['command'][:20]!r} with that id or time", hint=f"one of {', '.join(COMMANDS)}"
        )
    if bool(words["recipe"]) != (words["command"] == "recipe") or not words["by"].strip() or not words["why"].strip():
        raise UsageError("a command without who and why, or with a recipe where none belongs", hint=hint)
    try:
        _issued(words["issued_utc"])
        signature = base64.b64decode(words["signature"], validate=True)
    except ValueError:
        raise UsageError("a command with no such time, or a signature that is not base64", hint=hint) from None
    if not message_holds(words["key"], signature, _signed_bytes(document)):
        raise UsageError("a command whose signature does not hold", hint=hint)
    del words["signature"]
    return Command(**words)


def _issued(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


class CommandListener(MqttThread):
    """Hears commands, decides whether they are obeyed, and answers.

    station, config_sha256: of this device. apply_pause: told True or False. apply_recipe: prove a recipe, call the
    function it is given, and then change over; raises EdgeError, and then the old one stays. It may take its time: it
    has a thread of its own. ``paused`` and ``recipe``: what holds from the start by the audit trail; None: line.toml's.
    """

    def __init__(
        self,
        bank: MemoryBank,
        mqtt: MqttOptions,
        options: CommandOptions,
        *,
        station: str,
        config_sha256: str,
        apply_pause: Callable[[bool], None],
        apply_recipe: Callable[[RecipeChoice, Callable[[], None]], None],
    ) -> None:
        noted = [one for one in bank.notes(kind=_KIND, limit=1000) if one.body.get("station") == station]
        super().__init__("commands", mqtt)
        self._bank, self._asked = bank, options
        self._station, self._config_sha256 = station, config_sha256
        self._apply_pause, self._apply_recipe = apply_pause, apply_recipe
        self._recipes = {one.name: one for one in options.recipes}
        self._complained_s = -_COMPLAIN_S
        self.obeyed = self.refused = 0
        self._changing: threading.Thread | None = None
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._newest: dict[str, str] = {}
        for one in noted:
            key, issued_utc = str(one.body.get("key")), str(one.body.get("issued_utc"))
            self._newest[key] = max(self._newest.get(key, ""), issued_utc)
        self.paused = next((one.subject == "pause" for one in noted if one.subject in ("pause", "resume")), False)
        self.recipe = self._recipe_of(noted)

    def _recipe_of(self, noted: list[Chained]) -> RecipeChoice | None:
        """The recipe that was asked for last, unless line.toml has been changed since: then that says it."""
        last = next((one for one in noted if one.subject == "recipe"), None)
        if last is None or last.body.get("config_sha256") != self._config_sha256:
            return None
        return self._recipes.get(str(last.body.get("recipe")))

    def follow(self, config_sha256: str) -> None:
        """line.toml was read again; recipes asked for from now on hold as long as that file stays."""
        self._config_sha256 = config_sha256

    # ---------------------------------------------------------------- one connection

    def _open(self) -> Connection:
        client_id = self._options.client_id or "edge-daemon-" + self._options.topic_root.replace("/", "-")
        return Connection(
            self._options, None, ack_timeout_s=20.0, client_id=f"{client_id}-commands", receive_bytes=MAX_COMMAND_BYTES
        )

    def _serve(self, connection: Connection) -> None:
        topic = self._options.topic("command")
        connection.subscribe(topic)
        while not self._stopping.is_set():
            connection.pump(1.0, self._wake_read)
            heard = [payload for name, payload, retained in connection.received if name == topic and not retained]
            for name in ("subscribed", "acked", "refusals", "received"):
                getattr(connection, name).clear()
            for payload in heard:
                self.take(payload)
            while not self._answers.empty():
                answer = json.dumps(self._answers.get(), ensure_ascii=False).encode()
                connection.publish(self._options.topic("event"), answer, retain=False)

    # ---------------------------------------------------------------- one command

    def take(self, payload: bytes) -> None:
        """Obey or refuse one message. What nobody signed whom we trust gets no answer and no audit entry: whoever may
        only write to the broker could fill both."""
        try:
            command, nonsense = read_command(payload), ""
        except UsageError as error:
            command, nonsense = None, error.message
        if command is not None and command.key not in self._asked.trusted_keys:
            nonsense = f"a command signed with {command.key}, which is not in [commands] trusted_keys"
        if command is None or nonsense:
            self.refused += 1
            if time.monotonic() - self._complained_s >= _COMPLAIN_S:
                self._complained_s = time.monotonic()
                log("command_nonsense", f"not obeyed: {nonsense}", level=30)
            return
        try:
            self._check(command)
        except CommandRefused as error:
            self._finish(command, error.code, str(error))
            return
        # Also one that fails further on is over: what was refused today is not obeyed by sending it again.
        self._newest[command.key] = command.issued_utc
        if command.command == "recipe":
            self._changing = threading.Thread(target=self._obey, args=(command,), name="edge-recipe", daemon=True)
            self._changing.start()
        else:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        try:
            self._do(command)
        except EdgeError as error:
            self._finish(command, error.code, str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new recipe, the old one serves
            log("command_bug", f"{type(error).__name__}: {error}", level=40, error=error)
            self._finish(command, "BUG", f"{type(error).__name__}: {error}")
        else:
            self._finish(command, "", "")

    def _finish(self, command: Command, code: str, text: str) -> None:
        if code:
            self.refused += 1
            log("command_refused", f"{command.command} by {command.by}: {text}", level=30, code=code, id=command.id)
        else:
            self.obeyed += 1
            log("command", f"{command.command} {command.recipe} by {command.by}: {command.why}".replace("  ", " "),
                id=command.id, by=command.by)  # fmt: skip
        self._answers.put({
            "event": "command", "id": command.id, "station": self._station, "command": command.command,
            "recipe": command.recipe, "accepted": not code, "code": code, "text": text, "at_utc": utc_now(),
        })  # fmt: skip
        self.wake()

    def _check(self, command: Command) -> None:
        if command.station != self._station:
            raise CommandRefused("OTHER_STATION", f"is meant for {command.station}, this is {self._station}")
        age_s = (datetime.now(timezone.utc) - _issued(command.issued_utc)).total_seconds()
        if not -_AHEAD_S <= age_s <= self._asked.window_s:
            raise CommandRefused("STALE", f"was issued {age_s:.1f} s ago; at most {self._asked.window_s:g} s are taken")
        if command.issued_utc <= self._newest.get(command.key, ""):
            raise CommandRefused("REPLAY", f"was issued at {command.issued_utc}, not after the last one of this key")
        if command.command == "recipe" and self._changing is not None and self._changing.is_alive():
            raise CommandRefused("BUSY", "another recipe is just being proven")
        if command.command == "recipe" and command.recipe not in self._recipes:
            known = ", ".join(sorted(self._recipes)) or "none"
            raise CommandRefused("UNKNOWN_RECIPE", f"{command.recipe!r} is not in [[commands.recipe]] (known: {known})")

    def _do(self, command: Command) -> None:
        if command.command == "pause":
            self.paused = True
            self._apply_pause(True)
            try:
                self._note_down(command)
            except StorageError as error:
                log("command_unnoted", f"paused, but the audit trail does not say so: {error}", level=40, id=command.id)
        elif command.command == "resume":
            self._note_down(command)
            self.paused = False
            self._apply_pause(False)
        else:
            choice = self._recipes[command.recipe]
            self._apply_recipe(choice, lambda: self._note_down(command))
            self.recipe = choice

    def _note_down(self, command: Command) -> None:
        body = {
            "id": command.id, "station": command.station, "recipe": command.recipe, "key": command.key,
            "issued_utc": command.issued_utc, "config_sha256": self._config_sha256,
        }  # fmt: skip
        self._bank.note(_KIND, command.command, who=command.by, why=command.why, body=body)
