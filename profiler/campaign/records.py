"""The campaign's store: every raw sample and every failure, append-only, in one SQLite file.

Opening a file checks it as SQLite does, and every row carries a SHA-256 over its own content, so that a damaged file
gives an error and never a number. Samples are JSON arrays of nanoseconds, so that SQLite's and DuckDB's own JSON
functions can look into them.
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from filelock import FileLock, Timeout

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import Failure, FailureKind, Measurement, RunSettings
from bpnas.base.closing import Closing
from bpnas.base.errors import BpnasError, SpaceError, UsageError
from bpnas.base.fields import FieldError, Fields
from bpnas.base.file_kinds import RECORDS_ID, SQLITE_HEADER, begins_records, kind_of
from bpnas.base.files import NO_ROOM, missing_folder, too_large, what_to_do
from bpnas.base.plain_text import shortened, shown, storable
from bpnas.base.strict_json import parsed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.paths import select_paths

if TYPE_CHECKING:
    from bpnas.profiler.campaign.order import RowOrder

SCHEMA_VERSION = 1
_PLAN = ("fingerprint", "settings", "export_version", "backbones", "paths", "sessions")
_PLAN_SINCE = ("networks", "context", "test_seed", "heads")  # each only where it says something

_COMMON = """
    key TEXT NOT NULL,
    session INTEGER NOT NULL,
    fingerprint TEXT NOT NULL REFERENCES device,
    settings TEXT NOT NULL REFERENCES settings,
    export_version INTEGER NOT NULL,
    tools TEXT NOT NULL REFERENCES tools,
    sha256 TEXT NOT NULL,
    started_at REAL NOT NULL,
"""
# Apart from the plan, for the same plan with another precision is no other plan; files of before do not have it.
_PRECISION = "CREATE TABLE IF NOT EXISTS precision (plan TEXT PRIMARY KEY REFERENCES plan, value REAL NOT NULL)"
_SCHEMA = f"""
CREATE TABLE device (digest TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE settings (digest TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tools (digest TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plan (digest TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE measurement ({_COMMON}
    samples_ns TEXT NOT NULL,
    repeats INTEGER NOT NULL,
    warmup_runs INTEGER NOT NULL,
    warmup_ns INTEGER NOT NULL,
    load_ns INTEGER NOT NULL,
    conditions TEXT NOT NULL,
    row_sha256 TEXT NOT NULL,
    UNIQUE (key, session, fingerprint, settings, export_version)
);
CREATE TABLE failure ({_COMMON}
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    row_sha256 TEXT NOT NULL
);
"""


class RecordsError(BpnasError):
    """A records file that cannot be opened, is damaged, or is in use."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the measurements of one campaign have in common; only equal setups may meet in one table."""

    device: DeviceInfo
    settings: RunSettings
    export_version: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign set out to measure.

    Attributes:
        setup: on what and how.
        backbones: one per input size.
        paths: the path filter, or None for all 272.
        sessions: fresh sessions of every part.
        networks: random whole networks per backbone, in addition to its parts.
        context: the paths also between neighbours.
        test_seed: where given, the plan is of `networks` test networks alone, drawn with it; no table is made of it.
        heads: numbers of classes with which the head of every backbone is timed, too.
        precision: half the confidence interval over the estimate that was asked for last, or None. Plans that differ
            in nothing else are equal.
    """

    setup: Setup
    backbones: tuple[Backbone, ...]
    paths: str | None
    sessions: int
    networks: int = 0
    context: bool = False
    test_seed: int | None = None
    heads: tuple[int, ...] = ()
    precision: float | None = field(default=None, compare=False)


class Samples(NamedTuple):
    """What `bpnas.profiler.campaign.session` needs of a `Measurement`, and is made in a tenth of the time."""

    key: str
    session: int
    samples_ns: tuple[int, ...]
    repeats: int
    started_at: float


def differences(setups: Sequence[Setup]) -> list[str]:
    """What these setups do not have in common, for people: `seconds: 0.5 | 1.0`."""
    flat = [{**asdict(s.device), **asdict(s.settings), "export_version": s.export_version} for s in setups]
    values = {name: dict.fromkeys(str(each[name]) for each in flat) for name in flat[0]}
    return [f"{name}: {' | '.join(different)}" for name, different in values.items() if len(different) > 1]


class Records(Closing):
    """An open records file. Use `Records.write` or `Records.read` as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._setups: dict[tuple[str, str, int], Setup] = {}

    @classmethod
    def write(cls, path: str | Path) -> Records:
        """Open for appending, creating the file where there is none. One process at a time.

        Raises:
            RecordsError: another process writes to it, it is damaged, or no records file.
        """
        path = Path(path)
        if (reason := missing_folder(path)) is not None:
            raise RecordsError(reason)
        with _faults(path):
            _refuse_other_kinds(path, empty_is_new=True)  # before a lock is put next to somebody else's file
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not Path(f"{path}.lock").exists():  # it waits for a folder that takes files, too
                raise _cannot(path, "written", "its folder takes no files") from None
            raise RecordsError(
                f"{path}: another process is writing to it; wait until it is done, or name another file with --records"
            ) from None
        except OSError as error:
            if error.errno in NO_ROOM:
                raise SpaceError(what_to_do(error, str(path))) from error
            raise _cannot(path, "written", error.strerror or str(error)) from error
        is_new = not path.exists()
        try:
            return cls(path, cls._connect(path, create=True), lock)
        except BaseException:
            if is_new and path.exists() and not path.stat().st_size:  # nothing of it could be written
                path.unlink()
            lock.release()
            raise

    @classmethod
    def read(cls, path: str | Path, *, by_rows: bool = False) -> Records:
        """Open for reading, also while a campaign writes.

        Args:
            by_rows: only plans are read, and then `row_order` and `of_rows`, which do without the file's index: whether
                that fits the rows is not looked at, which takes longest.

        Raises:
            RecordsError: there is no such file, it is damaged, or no records file.
        """
        path = Path(path)
        with _faults(path):
            if not path.exists():
                raise RecordsError(f"{path}: no such records file; make one with profile-device --records {path}")
            _refuse_other_kinds(path)
        return cls(path, cls._connect(path, create=False, quick=by_rows), None)

    @classmethod
    def _connect(cls, path: Path, create: bool, quick: bool = False) -> sqlite3.Connection:
        with _faults(path):
            address = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'ro'}"
            connection = sqlite3.connect(address, uri=True, isolation_level=None)
            try:
                if create and connection.execute("PRAGMA schema_version").fetchone() == (0,):
                    connection.executescript(
                        f"BEGIN; {_SCHEMA} PRAGMA application_id = {RECORDS_ID}; "
                        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                    )
                if connection.execute("PRAGMA application_id").fetchone() != (RECORDS_ID,):
                    raise RecordsError(f"{path}: is an SQLite file, but no bpnas records; name another file")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version != SCHEMA_VERSION:
                    raise RecordsError(
                        f"{path}: records schema version {version}, but this bpnas reads version {SCHEMA_VERSION}; "
                        "use the bpnas that wrote it"
                    )
                check = "quick_check" if quick else "integrity_check"
                problems = [row[0] for row in connection.execute(f"PRAGMA {check}(1)")]
                if problems != ["ok"]:
                    raise RecordsError(_damaged(path, problems[0]))
                if create:
                    connection.execute("PRAGMA journal_mode = WAL")
                # Killed processes lose nothing with NORMAL; only a power cut may cost the last rows, never the file.
                connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                connection.close()
                raise
            return connection

    # Writing

    def add_plan(self, plan: Plan) -> None:
        """Note what a campaign sets out to measure; the same plan twice is one."""
        value: dict[str, Any] = {
            "fingerprint": plan.setup.device.fingerprint,
            "settings": plan.setup.settings.digest,
            "export_version": plan.setup.export_version,
            "backbones": [backbone.to_dict() for backbone in plan.backbones],
            "paths": plan.paths,
            "sessions": plan.sessions,
        }
        if plan.networks:  # so that a plan without them is the text that it always was
            value["networks"] = plan.networks
        if plan.context:
            value["context"] = True
        if plan.test_seed is not None:
            value["test_seed"] = plan.test_seed
        if plan.heads:
            value["heads"] = plan.heads
        with _faults(self.path), self._transaction():
            self._put_setup(plan.setup)
            digest = self._put("plan", json.dumps(value, sort_keys=True))
            if plan.precision is not None:
                self._connection.execute(_PRECISION)
                self._connection.execute("INSERT OR REPLACE INTO precision VALUES (?, ?)", (digest, plan.precision))

    def add(self, setup: Setup, tools: dict[str, str], outcome: Measurement | Failure) -> None:
        """Append one outcome; it is in the file when this returns.

        Raises:
            SpaceError: the disk is full; what was appended before is kept.
            RecordsError: the same thing was measured already.
        """
        row: dict[str, Any] = {each.name: getattr(outcome, each.name) for each in fields(outcome)}
        if isinstance(outcome, Measurement):
            row["samples_ns"] = json.dumps(outcome.samples_ns, separators=(",", ":"))
            row["conditions"] = json.dumps(outcome.conditions, sort_keys=True)
        table = "measurement" if isinstance(outcome, Measurement) else "failure"
        with _faults(self.path), self._transaction():
            row["fingerprint"], row["settings"] = self._put_setup(setup)
            row["export_version"] = setup.export_version
            row["tools"] = self._put("tools", json.dumps(tools, sort_keys=True))
            # A failure may name a file, and a file's name need not be UTF-8.
            row = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
            row["row_sha256"] = _row_sha256(row)
            columns = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)

    def _put_setup(self, setup: Setup) -> tuple[str, str]:
        """The fingerprint of its device and the digest of its settings, which name them in the file."""
        return self._put("device", setup.device.to_json()), self._put("settings", setup.settings.to_json())

    def _put(self, table: str, value: str) -> str:
        digest = hashlib.sha256(value.encode()).hexdigest()
        self._connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (digest, value))
        return digest

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # on a full disk SQLite may have rolled back already
                self._connection.execute("ROLLBACK")
            raise

    # Reading

    def plans(self) -> tuple[Plan, ...]:
        """All plans, in a fixed order.

        Raises:
            RecordsError: the file is damaged.
        """
        with _faults(self.path):
            values, precisions = self._values("plan"), self._precisions()
        return tuple(self._plan(value, precisions.get(digest)) for digest, value in values.items())

    def _plan(self, value: str, precision: float | None) -> Plan:
        with _stored(self.path, "a plan"):
            stored = Fields.parse(value)
            stored.exactly(_PLAN, _PLAN_SINCE)
            identity = stored.text("fingerprint"), stored.text("settings"), stored.whole("export_version")
            backbones = tuple(Backbone.from_dict(each.values) for each in stored.parts("backbones"))
            paths = stored.text("paths") if stored.has("paths") else None
            if paths is not None:
                select_paths(paths)  # is it a filter?
            sessions = stored.whole("sessions", 1)
            networks = stored.whole("networks", 1) if "networks" in stored.values else 0
            context = stored.flag("context") if "context" in stored.values else False
            test_seed = stored.whole("test_seed") if "test_seed" in stored.values else None
            heads = tuple(stored.wholes("heads", 1)) if "heads" in stored.values else ()
        return Plan(self._setup(*identity), backbones, paths, sessions, networks, context, test_seed, heads, precision)

    def refuse_other_setups(self, setup: Setup) -> None:
        """Refuse to continue in this file where nothing new could meet what is there in one table.

        Raises:
            RecordsError: the file holds a campaign with the same runtime, but another device, setting or version.
        """
        for other in dict.fromkeys(plan.setup for plan in self.plans()):
            if other.device.runtime == setup.device.runtime and other != setup:
                raise RecordsError(
                    f"{self.path}: holds a campaign that must not meet this one in a table "
                    f"({'; '.join(differences([other, setup])[:3])}); repeat its settings, or name another file with "
                    "--records"
                )

    def done(self, setup: Setup) -> set[tuple[str, int]]:
        """(key, session) of everything measured with this setup."""
        return self._tasks("measurement", setup)

    def keys(self, setup: Setup) -> set[str]:
        """Of everything measured with this setup."""
        query = "SELECT DISTINCT key FROM measurement WHERE fingerprint = ? AND settings = ? AND export_version = ?"
        with _faults(self.path):
            return {key for (key,) in self._connection.execute(query, _identity(setup))}

    def failed(self, setup: Setup) -> set[tuple[str, int]]:
        """(key, session) of everything that failed with this setup, whether it was measured later or not."""
        return self._tasks("failure", setup)

    def _tasks(self, table: str, setup: Setup) -> set[tuple[str, int]]:
        with _faults(self.path):
            rows = self._connection.execute(
                f"SELECT key, session FROM {table} WHERE fingerprint = ? AND settings = ? AND export_version = ?",
                _identity(setup),
            )
            return {(key, session) for key, session in rows}

    def measurements(self) -> Iterator[tuple[Setup, Measurement]]:
        """Everything measured, ordered by key and session.

        Raises:
            RecordsError: a row is damaged.
        """
        for _, setup, row in self._rows("measurement"):
            yield setup, self._measurement(row)

    def _measurement(self, row: dict[str, Any]) -> Measurement:
        try:
            (row["samples_ns"],) = _samples_of_all([row["samples_ns"]])
            row["conditions"] = _conditions(row["conditions"])
            _check_measurement(row)
            return Measurement(**row)
        except _UNREADABLE as error:  # `_stored` would take as long as all of this
            raise _cannot_read(self.path, "a measurement", error) from error

    def measurements_of(self, setup: Setup) -> Iterator[Measurement]:
        """Everything measured with this setup, in the order of measuring.

        Raises:
            RecordsError: a row is damaged.
        """
        return (measurement for _, measurement in self.numbered(setup))

    def numbered(self, setup: Setup) -> Iterator[tuple[int, Measurement]]:
        """As `measurements_of`, each with the number of its row: what was measured later has a larger one."""
        where = "WHERE fingerprint = ? AND settings = ? AND export_version = ? ORDER BY rowid"
        rows = self._rows("measurement", where, _identity(setup))
        return ((number, self._measurement(row)) for number, _, row in rows)

    def row_order(self, setup: Setup) -> RowOrder:
        """Of which part, when and by which device each row of this setup was measured.

        Raises:
            RecordsError: a row is damaged, whichever setup it is of, or the rows are not all there.
        """
        import numpy as np

        from bpnas.profiler.campaign.order import RowOrder

        keys: dict[str, int] = {}
        serials: dict[str, int] = {}
        parts, rows, devices, times, digests = array("q"), array("q"), array("q"), array("d"), array("q")
        wanted, count = _identity(setup), 0
        with _faults(self.path), self._every_row() as (columns, indexed, cursor):
            try:
                started_at, digest, key = map(columns.names.index, ("started_at", "row_sha256", "key"))
                typed = itemgetter(*map(columns.names.index, _TYPED))
                identity = itemgetter(*map(columns.names.index, ("fingerprint", "settings", "export_version")))
                for row in cursor:
                    if not columns.is_whole(row):
                        raise RecordsError(_damaged(self.path, f"a measurement row of {shown(row[key])} has changed"))
                    count += 1
                    if not isinstance(row[-2], str | None):
                        raise ValueError("conditions")
                    if not _is_sound(*typed(row)):
                        _check_measurement(dict(zip(columns.names, row, strict=False)))
                    if identity(row) == wanted:
                        parts.append(keys.setdefault(row[key], len(keys)))
                        rows.append(row[-1])
                        devices.append(serials.setdefault(row[-2] or "", len(serials)))
                        times.append(row[started_at])
                        digests.append(int(row[digest][:15], 16))
            except FieldError as error:
                raise _cannot_read(self.path, "a measurement", error) from error
            except (TypeError, ValueError) as error:  # a column's name or type has changed
                raise RecordsError(_damaged(self.path, f"a measurement row: {shown(error)}")) from error
        if indexed != count:
            raise RecordsError(_damaged(self.path, f"{count} measurement rows, but {indexed} in their index"))
        whole = [np.frombuffer(each, np.int64) for each in (rows, devices, digests, parts)]
        real = np.frombuffer(times, np.float64)
        return RowOrder(whole[0], tuple(serials), whole[1], real, whole[2], tuple(keys), whole[3])

    @contextmanager
    def _every_row(self) -> Iterator[tuple[_Columns, int, sqlite3.Cursor]]:
        """All measurements by number, the serial and the number behind their columns; and how many the index has.

        Both are of one moment, though a campaign may append more.
        """
        serial = (
            "CASE WHEN json_valid(conditions) AND json_type(conditions) = 'object' "
            "THEN json_extract(conditions, '$.before.serial') ELSE 0 END"
        )
        index = "SELECT COUNT(*) FROM measurement INDEXED BY sqlite_autoindex_measurement_1"
        query = self._connection.execute
        query("BEGIN")
        try:
            (indexed,) = query(index).fetchone()
            with _held(query(f"SELECT *, {serial}, rowid FROM measurement ORDER BY rowid")) as found:
                yield _Columns([column[0] for column in found.description[:-2]]), indexed, found
        finally:
            if self._connection.in_transaction:
                query("ROLLBACK")

    def of_rows(self, numbers: Sequence[int]) -> list[Samples]:
        """What was measured in these rows, ascending, which `row_order` has checked.

        Raises:
            RecordsError: they cannot be read.
        """
        query = (
            "SELECT key, session, samples_ns, repeats, started_at FROM measurement "
            "WHERE rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        )
        with _faults(self.path):
            rows = self._connection.execute(query, (json.dumps(numbers),)).fetchall()
        if len(rows) != len(numbers):
            raise RecordsError(_damaged(self.path, f"of {len(numbers)} measurement rows, {len(rows)} are there"))
        with _stored(self.path, "a measurement"):
            samples = _samples_of_all([row[2] for row in rows])
            return [Samples(row[0], row[1], own, *row[3:]) for row, own in zip(rows, samples, strict=True)]

    def failures(self) -> Iterator[tuple[Setup, Failure]]:
        """Every failure, ordered by key and session; a part that was measured later appears in both lists."""
        for _, setup, row in self._rows("failure"):
            with _stored(self.path, "a failure"):
                failure = _failure(row)
            yield setup, failure

    def _rows(
        self, table: str, where: str = "ORDER BY key, session, rowid", values: Sequence[str | int] = ()
    ) -> Iterator[tuple[int, Setup, dict[str, Any]]]:
        """Number, setup and content of rows; damaged ones raise."""
        # A cursor that lives on in a traceback would keep the file locked, and the next writer waiting.
        query = self._connection.execute
        with _faults(self.path), _held(query(f"SELECT rowid, * FROM {table} {where}", values)) as cursor:
            columns = _Columns([column[0] for column in cursor.description[1:]])
            for number, *content in cursor:
                try:
                    whole = columns.is_whole(content)
                    row = dict(zip(columns.names, content, strict=True))
                    del row["tools"], row["row_sha256"]
                    identity = (row.pop("fingerprint"), row.pop("settings"), row.pop("export_version"))
                except (KeyError, TypeError, ValueError) as error:  # a column's name or type has changed
                    raise RecordsError(_damaged(self.path, f"a {table} row: {shown(error)}")) from error
                if not whole:
                    raise RecordsError(_damaged(self.path, f"a {table} row of {shown(row['key'])} has changed"))
                if identity not in self._setups:
                    self._setups[identity] = self._setup(*identity)
                yield number, self._setups[identity], row

    def _setup(self, fingerprint: str, settings: str, export_version: int) -> Setup:
        with _faults(self.path):
            devices, all_settings = self._values("device"), self._values("settings")
        if fingerprint not in devices or settings not in all_settings:
            raise RecordsError(_damaged(self.path, "a row's fingerprint or settings name none that is there"))
        with _stored(self.path, "a device or its settings"):
            Fields({"export_version": export_version}).whole("export_version")
            device = DeviceInfo.from_json(devices[fingerprint])
            return Setup(device, RunSettings.from_json(all_settings[settings]), export_version)

    def _precisions(self) -> dict[str, float]:
        if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'precision'").fetchall():
            return {}
        values = dict(self._connection.execute("SELECT plan, value FROM precision"))
        if not all(isinstance(value, float) and 0.0 < value < 1.0 for value in values.values()):
            raise RecordsError(_damaged(self.path, "a precision row has changed"))
        return values

    def _values(self, table: str) -> dict[str, str]:
        values = dict(self._connection.execute(f"SELECT digest, value FROM {table} ORDER BY digest"))
        for digest, value in values.items():
            if not isinstance(value, str) or hashlib.sha256(value.encode()).hexdigest() != digest:
                raise RecordsError(_damaged(self.path, f"a {table} row has changed"))
        return values

    def close(self) -> None:
        """Close the file and let others write to it."""
        try:
            if self._lock is not None:
                # When closed it is one self-contained file, which may be copied or read from a read-only folder.
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def is_records_file(path: str | Path) -> bool:
    """Whether the file calls itself bpnas records (in any state)."""
    try:
        with Path(path).open("rb") as file:
            return begins_records(file.read(SQLITE_HEADER))
    except OSError:
        return False


@lru_cache(maxsize=64)
def _identity(setup: Setup) -> tuple[str, str, int]:
    """What names a setup in a row."""
    return setup.device.fingerprint, setup.settings.digest, setup.export_version


class _Columns:
    """The columns of a table whose rows carry a hash: of the JSON of all others, sorted by name."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._hashed = sorted(name for name in names if name != "row_sha256")
        self._at = names.index("row_sha256") if "row_sha256" in names else 0
        self._values = itemgetter(*map(names.index, self._hashed))
        self._text = f"{{{', '.join(f'{_quoted(name)}: %s' for name in self._hashed)}}}"

    def is_whole(self, row: Sequence[Any]) -> bool:
        """Whether a row is as it was written. Raises TypeError, ValueError: it holds what bpnas never writes."""
        values, stored = self._values(row), str(row[self._at])
        text = self._text % tuple([_quoted(value) if type(value) is str else value for value in values])
        if hashlib.sha256(text.encode()).hexdigest() == stored:
            return True
        # That is JSON of texts and usual numbers, in a third of the time; of all else JSON itself decides.
        return _row_sha256(dict(zip(self._hashed, values, strict=True))) == stored


def _row_sha256(row: dict[str, Any]) -> str:
    """Of a row without its own hash."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


@contextmanager
def _held(cursor: sqlite3.Cursor) -> Iterator[sqlite3.Cursor]:
    """Closed at the end, which comes after that of the connection where an error holds on to the rows."""
    try:
        yield cursor
    finally:
        with suppress(sqlite3.ProgrammingError):
            cursor.close()


def _samples_of_all(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The same as `_samples` for each, read at once where nothing is wrong: in half the time."""
    together = f"[{','.join(texts)}]"
    if "-" not in together and "t" not in together:  # nothing negative, and no true, which is 1 to an array
        try:
            found = json.loads(together)
            if len(found) == len(texts) and all(type(own) is list and own and array("q", own) for own in found):
                return [tuple(own) for own in found]
        except (ValueError, TypeError, OverflowError, RecursionError):
            pass  # it is told below
    return list(map(_samples, texts))


def _samples(text: str) -> tuple[int, ...]:
    """Nanoseconds. Raises FieldError."""
    try:
        stored = Fields({"samples_ns": parsed(text)})
    except ValueError as error:
        raise FieldError(f"'samples_ns': {error}") from error
    if not stored.items("samples_ns"):
        raise FieldError("'samples_ns' must have a sample")
    return tuple(stored.wholes("samples_ns"))


def _conditions(text: str) -> dict[str, dict[str, float | str]]:
    """What `Measurement.conditions` may be."""
    found = Fields.parse(text, "conditions")
    found.only("before", "after")
    for part in map(found.part, found.values):
        for name, value in part.values.items():
            part.line(name) if isinstance(value, str) else part.number(name)
    return dict(found.values)


_TYPED = ("key", "sha256", "session", "started_at", "repeats", "warmup_runs", "warmup_ns", "load_ns")
_typed = itemgetter(*_TYPED)


def _is_sound(key: Any, sha256: Any, session: Any, started_at: Any, repeats: Any, *others: Any) -> bool:
    """Whether what `_TYPED` names is surely what a device may say; where not, `_check_measurement` decides."""
    warmup_runs, warmup_ns, load_ns = others
    return bool(
        type(session) is type(repeats) is type(warmup_runs) is type(warmup_ns) is type(load_ns) is int
        and type(key) is type(sha256) is str
        and repeats > 0 <= min(session, warmup_runs, warmup_ns, load_ns)
        and math.isfinite(started_at)
    )


def _check_measurement(row: Mapping[str, Any]) -> None:
    """Refuse what no device says: a row's hash tells of damage, not of a program that made the row up."""
    if not _is_sound(*_typed(row)):
        _check_common(row)
        stored = Fields(row)
        for name in ("warmup_runs", "warmup_ns", "load_ns"):
            stored.whole(name)
        stored.whole("repeats", 1)


def _check_common(row: Mapping[str, Any]) -> None:
    stored = Fields(row)
    stored.text("key")
    stored.text("sha256")
    stored.whole("session")
    stored.number("started_at")


def _failure(row: Mapping[str, Any]) -> Failure:
    _check_common(row)
    stored, kinds = Fields(row), get_args(FailureKind)
    if stored.text("kind") not in kinds:
        raise FieldError(f"'kind' must be one of {', '.join(kinds)}, not {shown(row['kind'])}")
    return Failure(**row)


def _refuse_other_kinds(path: Path, empty_is_new: bool = False) -> None:
    """Say what a file is that is no records file, before anything is done to it or put next to it.

    Raises:
        RecordsError: see above.
        OSError: it cannot be read.
    """
    if not path.exists() or (empty_is_new and path.is_file() and not path.stat().st_size):
        return
    if path.is_file():
        with path.open("rb") as file:
            header = file.read(SQLITE_HEADER)
        if begins_records(header):
            return
    raise RecordsError(f"{path}: {kind_of(path).instead_of('bpnas records')}")


def _cannot(path: Path, done: str, reason: str) -> RecordsError:
    return RecordsError(
        f"{path}: cannot be {done} ({reason}); see who may read and write it and its folder, or name another file"
    )


def _damaged(path: Path, detail: str) -> str:
    detail = " ".join(detail.split())  # SQLite's findings take two lines
    return (
        f"{path}: the records are damaged ({detail}); restore a copy, or name another file with --records, and "
        "keep this one: SQLite's own program saves what is whole of it with its command .recover"
    )


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError)


def _cannot_read(path: Path, what: str, error: BaseException) -> RecordsError:
    ours = isinstance(error, FieldError | UsageError)
    reason = shortened(str(error), 240) if ours else shown(f"{type(error).__name__}: {error}", 200)
    return RecordsError(
        f"{path}: {what} in it cannot be read ({reason}); use the bpnas that wrote the file, or name another file"
    )


@contextmanager
def _stored(path: Path, what: str) -> Iterator[None]:
    """Content whose hash is right, and which still cannot be read: another program wrote it, or a later bpnas."""
    try:
        yield
    except _UNREADABLE as error:
        raise _cannot_read(path, what, error) from error


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the system as ours. Damage is only what SQLite says of the file's own content."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise RecordsError(f"{path}: the same thing was measured already ({error})") from error
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # ours, and nothing about the file
    except UnicodeDecodeError as error:  # a name in the file's own schema
        raise RecordsError(_damaged(path, str(error))) from error
    except sqlite3.Error as error:
        # The lower byte is the kind of the fault; without one, it is a text that Python could not decode.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise SpaceError(f"{path}: no space left on the disk; free some and call the same command again") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise RecordsError(f"{path}: another program is using it; close that and try again") from error
        if code in _DAMAGE:
            raise RecordsError(_damaged(path, str(error))) from error
        if code == sqlite3.SQLITE_IOERR and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
            raise SpaceError(f"{path}: {too_large()}") from error  # nothing else says so
        if code == sqlite3.SQLITE_IOERR:
            raise RecordsError(
                f"{path}: the disk could not be read or written ({error}); check the disk and its connection, and call "
                "the same command again"
            ) from error
        raise _cannot(path, "opened or written", str(error)) from error
    except OSError as error:
        raise _cannot(path, "read", error.strerror or str(error)) from error


_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # a table or column is not there: our statements are right
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
}
