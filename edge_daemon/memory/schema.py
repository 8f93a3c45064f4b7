"""The tables of the memory bank, the same on SQLite and PostgreSQL, and the way from an older file to them.

Everything that decides or proves something is in the audit chain (``chain.py``): ``records``, ``documents`` and
``audit``. Everything else is there to be found quickly, and ``memory verify`` compares it with what it was made from.

    tickets, outbox, probe    the line's journal, messages not yet delivered, the proof that a commit reaches the disk
    records, documents        a row per part, and its document: canonical JSON, compressed by zlib
    record_groups             the few combinations of station, recipe, outcome and result, with their number of records
    record_types              which record has an indication of which type
    detections                a row per indication (the largest of a record, see indications.py), with a feature vector
    performance, type_days    what is counted per day; kept when retention removes the records. Station and recipe ''
                              in type_days: all of them
    sessions                  runs of the daemon
    feedback, masks           what people said about records; corrected label images
    patterns                  the user's own words about types of defects, in place of the shipped ones
    audit                     rows of the audit chain that are no records
    chain                     one row: end of the audit chain, and totals
    meta                      identity of this bank
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from ..errors import StorageError
from ..tickets import utc_now
from .backend import Transaction
from .storing import Appender, NewRecord

__all__ = ["SCHEMA_VERSION", "create", "migrate_1", "statements"]

SCHEMA_VERSION = 2

_TABLES = """
CREATE TABLE tickets (
    record_id   TEXT NOT NULL PRIMARY KEY,
    part_id     INTEGER NOT NULL,
    station     TEXT NOT NULL,
    trigger_utc TEXT NOT NULL,
    trigger_ns  INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    draft       TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
    number           INTEGER PRIMARY KEY,
    record_id        TEXT NOT NULL UNIQUE,
    part_id          INTEGER,
    station          TEXT NOT NULL,
    recipe           TEXT NOT NULL,
    group_id         INTEGER NOT NULL,
    session          INTEGER,
    trigger_utc      TEXT NOT NULL,
    outcome          TEXT NOT NULL CHECK (outcome IN ('PASS', 'INCONCLUSIVE', 'FAIL', 'NOT_EVALUABLE')),
    result           TEXT NOT NULL CHECK (result IN ('PASS', 'FAIL')),
    advisory         INTEGER NOT NULL,
    reasons          TEXT NOT NULL,
    types            TEXT NOT NULL,
    indications      INTEGER NOT NULL,
    pictures         TEXT,
    pictures_bytes   INTEGER,
    pictures_removed INTEGER,
    created_utc      TEXT NOT NULL,
    previous_sha256  BLOB NOT NULL,
    sha256           BLOB NOT NULL,
    CHECK (result = 'FAIL' OR outcome = 'PASS')
) STRICT;
CREATE INDEX records_by_group ON records (group_id, number);
CREATE INDEX records_by_part ON records (part_id, number);
CREATE INDEX records_with_pictures ON records (number) WHERE pictures IS NOT NULL AND pictures_removed IS NULL;

CREATE TABLE documents (number INTEGER PRIMARY KEY, document BLOB NOT NULL) STRICT;

CREATE TABLE record_groups (
    group_id INTEGER PRIMARY KEY,
    station  TEXT NOT NULL,
    recipe   TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    result   TEXT NOT NULL,
    records  INTEGER NOT NULL,
    UNIQUE (station, recipe, outcome, result)
) STRICT;

CREATE TABLE record_types (
    type     TEXT NOT NULL,
    group_id INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    PRIMARY KEY (type, group_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE detections (
    number       INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    type         TEXT NOT NULL,
    known        INTEGER NOT NULL,
    nearest_type TEXT NOT NULL,
    confidence   REAL,
    p_known      REAL,
    area_mm2     REAL,
    area_u_mm2   REAL,
    feret_max_mm REAL,
    feret_u_mm   REAL,
    coverage_pct REAL,
    contrast     REAL,
    x_px         INTEGER NOT NULL,
    y_px         INTEGER NOT NULL,
    w_px         INTEGER NOT NULL,
    h_px         INTEGER NOT NULL,
    features     BLOB NOT NULL,
    PRIMARY KEY (number, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE performance (
    day            TEXT NOT NULL,
    station        TEXT NOT NULL,
    recipe         TEXT NOT NULL,
    engine         TEXT NOT NULL,
    first_number   INTEGER NOT NULL,
    last_number    INTEGER NOT NULL,
    parts          INTEGER NOT NULL,
    passed         INTEGER NOT NULL,
    pass_parts     INTEGER NOT NULL,
    inconclusive   INTEGER NOT NULL,
    fail           INTEGER NOT NULL,
    not_evaluable  INTEGER NOT NULL,
    advisory       INTEGER NOT NULL,
    unknown_parts  INTEGER NOT NULL,
    indications    INTEGER NOT NULL,
    area_mm2       REAL NOT NULL,
    confidence_sum REAL NOT NULL,
    confidence_n   INTEGER NOT NULL,
    segment_ms_sum REAL NOT NULL,
    segment_ms_n   INTEGER NOT NULL,
    confirmed      INTEGER NOT NULL DEFAULT 0,
    wrong_type     INTEGER NOT NULL DEFAULT 0,
    missed         INTEGER NOT NULL DEFAULT 0,
    false_calls    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, station, recipe, engine)
) STRICT, WITHOUT ROWID;

CREATE TABLE type_days (
    day            TEXT NOT NULL,
    station        TEXT NOT NULL,
    recipe         TEXT NOT NULL,
    type           TEXT NOT NULL,
    parts          INTEGER NOT NULL,
    passed         INTEGER NOT NULL,
    advisory       INTEGER NOT NULL,
    indications    INTEGER NOT NULL,
    area_mm2       REAL NOT NULL,
    confidence_sum REAL NOT NULL,
    confidence_n   INTEGER NOT NULL,
    confirmed      INTEGER NOT NULL DEFAULT 0,
    wrong_type     INTEGER NOT NULL DEFAULT 0,
    missed         INTEGER NOT NULL DEFAULT 0,
    false_calls    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, station, recipe, type)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id   TEXT NOT NULL,
    topic       TEXT NOT NULL,
    payload     BLOB NOT NULL,
    created_utc TEXT NOT NULL,
    event_ns    INTEGER NOT NULL,
    boot_id     TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_record ON outbox (record_id);

CREATE TABLE sessions (
    number        INTEGER PRIMARY KEY,
    station       TEXT NOT NULL,
    started_utc   TEXT NOT NULL,
    ended_utc     TEXT,
    ended         TEXT,
    version       TEXT NOT NULL,
    recipe        TEXT NOT NULL,
    engine        TEXT NOT NULL,
    engine_sha256 TEXT NOT NULL,
    config_sha256 TEXT NOT NULL
) STRICT;

CREATE TABLE feedback (
    number       INTEGER PRIMARY KEY,
    record_id    TEXT NOT NULL,
    position     INTEGER,
    verdict      TEXT NOT NULL CHECK (verdict IN ('confirm', 'wrong_type', 'missed', 'false_call')),
    correct_type TEXT,
    who          TEXT NOT NULL,
    why          TEXT NOT NULL,
    at_utc       TEXT NOT NULL,
    mask_sha256  TEXT,
    mask_types   TEXT NOT NULL,
    rejudged     TEXT,
    current      INTEGER NOT NULL
) STRICT;
CREATE INDEX feedback_by_record ON feedback (record_id);

CREATE TABLE masks (sha256 TEXT NOT NULL PRIMARY KEY, png BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE patterns (
    type        TEXT NOT NULL PRIMARY KEY,
    title       TEXT NOT NULL,
    description TEXT NOT NULL,
    causes      TEXT NOT NULL,
    severity    TEXT NOT NULL,
    edited_by   TEXT NOT NULL,
    edited_utc  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    number          INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL,
    subject         TEXT NOT NULL,
    who             TEXT NOT NULL,
    why             TEXT NOT NULL,
    at_utc          TEXT NOT NULL,
    body            TEXT NOT NULL,
    previous_sha256 BLOB NOT NULL,
    sha256          BLOB NOT NULL
) STRICT;
CREATE INDEX audit_by_kind ON audit (kind, number);

CREATE TABLE chain (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    number         INTEGER NOT NULL,
    sha256         BLOB NOT NULL,
    records        INTEGER NOT NULL,
    indications    INTEGER NOT NULL,
    pictures_bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), written_utc TEXT NOT NULL) STRICT;
"""


def statements() -> list[str]:
    """The statements that make an empty bank, in SQLite's words."""
    return [statement.strip() for statement in _TABLES.split(";") if statement.strip()]


def create(db: Transaction, made: list[str]) -> None:
    """Make the tables of an empty bank. made: the statements, in the database's own words."""
    for statement in made:
        db.execute(statement)
    db.execute("INSERT INTO chain VALUES (1, 0, ?, 0, 0, 0)", (bytes(32),))
    now = utc_now()
    db.executemany("INSERT INTO meta VALUES (?, ?)", [("bank_id", str(uuid.uuid4())), ("made_utc", now)])


def migrate_1(db: Transaction) -> None:
    """From schema 1 (SQLite only) inside the running transaction. Records keep number, content and order; the audit
    chain begins here: it seals them as they are found now, and says so in its first row that is no record."""
    old = ("tickets", "records", "record_types", "outbox", "probe")
    for name in ("records_by_outcome", "records_by_trigger", "record_types_by_number", "outbox_by_record"):
        db.execute(f"DROP INDEX {name}")
    for name in old:
        db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    create(db, statements())
    db.execute("INSERT INTO tickets SELECT * FROM old_tickets")
    db.execute("INSERT INTO probe SELECT * FROM old_probe")
    db.execute("INSERT INTO outbox SELECT * FROM old_outbox")
    # A number of a message is never used twice, also when the outbox is empty at this moment.
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
    db.execute("INSERT INTO sqlite_sequence SELECT 'outbox', seq FROM sqlite_sequence WHERE name = 'old_outbox'")
    chain, last, count = Appender(db), 0, 0
    while True:
        page = db.execute(
            "SELECT number, record_id, part_id, station, trigger_utc, outcome, result, document, pictures, created_utc"
            " FROM old_records WHERE number > ? ORDER BY number LIMIT 200",
            (last,),
        ).fetchall()
        if not page:
            break
        for number, record_id, part_id, station, trigger_utc, outcome, result, text, pictures, created_utc in page:
            chain.skip_to(number)
            document = _document(record_id, text)
            chain.record(
                NewRecord(record_id, part_id, station, trigger_utc, outcome, result, document, pictures, None, None,
                          created_utc)
            )  # fmt: skip
        last, count = page[-1][0], count + len(page)
    used = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'old_records'").fetchone()
    chain.skip_to((used[0] if used else 0) + 1)
    # Children first: a table that others refer to can only be dropped when they are gone.
    for name in ("outbox", "record_types", "records", "tickets", "probe"):
        db.execute(f"DROP TABLE old_{name}")
    chain.note("migrated", "schema 1 to 2", who="edge-daemon", why="opened by a newer program",
               body={"records": count})  # fmt: skip
    chain.finish()


def _document(record_id: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise StorageError(
            f"the document of record {record_id} is damaged, so the memory bank cannot be brought to schema 2",
            code="CORRUPT",
            hint="restore a copy of the file; it is left as it was",
        )
    return document
