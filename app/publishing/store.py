"""The outbox's captions on disk: SQLite in WAL mode, written by one thread, so that no caption waits for a disk.

A caption is inserted when it is queued and deleted when the broker has acknowledged it; both travel to the writer
thread in that order and are committed together, as many as there are. What was committed and not deleted is there
again after a crash, a SIGKILL or a power cut (`synchronous=FULL`).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path

import structlog

from app.publishing import topics
from app.publishing.errors import PublishError
from app.publishing.outbox import Message, Receipt

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    key INTEGER PRIMARY KEY,     -- the order in which they were queued
    id TEXT NOT NULL,            -- the caption's
    topic TEXT NOT NULL,
    payload TEXT NOT NULL,
    boot TEXT NOT NULL,          -- the kernel's boot id: within one boot the monotonic clock tells the age,
    queued_ns INTEGER NOT NULL,
    queued_wall_ns INTEGER NOT NULL  -- across boots only the wall clock can
)"""
COLUMNS = ("key", "id", "topic", "payload", "boot", "queued_ns", "queued_wall_ns")
MOST_WAITING = 10_000  # writes that wait for a slow disk; over it captions are sent, but not kept
CLOSE_S = 2.0

log = structlog.get_logger(__name__)


class Store:
    """One file for one process; `waiting` holds what an earlier one left, oldest first.

    A disk that fails costs durability, not captions: `failed` then says why, and is None again when writing succeeds;
    where the file could not even be opened, nothing is kept until the next start. A damaged file is set aside as
    `<name>.damaged`, and a new one begun. Raises PublishError for a file that cannot be ours: its folder is a file,
    another process has it, or it is the database of another program.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.failed: str | None = None
        self.unstored = 0  # captions that were not kept, because the disk failed or was too slow
        self.waiting: list[Message] = []
        self._jobs: queue.Queue[tuple[str, tuple[object, ...]] | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        try:
            connection, self.waiting = self._open()
        except (sqlite3.Error, OSError) as error:
            self._fail(error, 0)
        else:
            self._thread = threading.Thread(target=self._write, args=(connection,), name="outbox", daemon=True)
            self._thread.start()
        self._key = max((m.receipt.key or 0 for m in self.waiting), default=0)

    def insert(self, message: Message) -> None:
        """Keep a message; never blocks. Its receipt's `key` names it from now on."""
        if self._thread is None:
            self.unstored += 1
            return
        self._key += 1
        message.receipt.key = self._key
        payload = message.payload or {}
        row = (self._key, payload.get("id", ""), message.topic, payload, _boot_id())
        try:
            self._jobs.put_nowait(("insert", (*row, message.receipt.queued_ns, _wall_ns(message.receipt))))
        except queue.Full:
            self.unstored += 1
            message.receipt.key = None

    def delete(self, receipt: Receipt) -> None:
        """Forget a message that was acknowledged or dropped; never blocks."""
        if receipt.key is not None:
            with contextlib.suppress(queue.Full):  # it will be sent once more, under the same id
                self._jobs.put_nowait(("delete", (receipt.key,)))
            receipt.key = None

    def close(self) -> None:
        """Commit what waits, at most two seconds long, and close the file."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._jobs.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    def _open(self) -> tuple[sqlite3.Connection, list[Message]]:
        """The database and what waits in it. Raises sqlite3.Error and OSError when the disk fails."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._connect()
        except (FileExistsError, NotADirectoryError) as error:
            raise self._refused(f"cannot be made: {error.strerror}") from None
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise self._refused("another process uses it") from None
            raise
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            os.replace(self._path, aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            log.error("outbox_damaged", file=str(self._path), error=str(error), set_aside_as=str(aside))
            return self._connect()

    def _refused(self, reason: str) -> PublishError:
        return PublishError(f"outbox {self._path}: {reason}; name another file in mqtt.outbox_file")

    def _connect(self) -> tuple[sqlite3.Connection, list[Message]]:
        """Also raises ValueError or TypeError for a row that holds no message."""
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone() and _columns(connection) != COLUMNS:
                raise self._refused("it is the database of another program")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(SCHEMA)
            connection.execute("BEGIN IMMEDIATE")  # takes the lock now, so that a second process hears of it now
            connection.execute("COMMIT")
            found = connection.execute("PRAGMA quick_check").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            return connection, _load(connection)
        except BaseException:
            connection.close()
            raise

    def _write(self, connection: sqlite3.Connection) -> None:
        done = False
        while not done:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            done = None in jobs
            try:
                self._commit(connection, [job for job in jobs if job is not None])
                self.failed = None
            except (sqlite3.Error, OSError) as error:
                self._fail(error, sum(job is not None and job[0] == "insert" for job in jobs))
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: list[tuple[str, tuple[object, ...]]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for kind, values in jobs:
                if kind == "insert":
                    key, id_, topic, payload, *rest = values
                    text = json.dumps(payload, ensure_ascii=False)
                    connection.execute("INSERT INTO messages VALUES (?,?,?,?,?,?,?)", (key, id_, topic, text, *rest))
                else:
                    connection.execute("DELETE FROM messages WHERE key = ?", values)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _fail(self, error: Exception, inserts: int) -> None:
        if self.failed is None:
            log.error("outbox_not_written", file=str(self._path), error=str(error))
        self.failed = f"{self._path}: {getattr(error, 'strerror', None) or error}"
        self.unstored += inserts


def _columns(connection: sqlite3.Connection) -> tuple[str, ...]:
    return tuple(row[1] for row in connection.execute("PRAGMA table_info(messages)"))


def _load(connection: sqlite3.Connection) -> list[Message]:
    """What waits, oldest first, with its age. Raises ValueError or TypeError for a row that holds no message."""
    boot, now_ns, now_wall_ns = _boot_id(), time.monotonic_ns(), time.time_ns()
    rows = connection.execute("SELECT key, topic, payload, boot, queued_ns, queued_wall_ns FROM messages ORDER BY key")
    messages = []
    for key, topic, payload, its_boot, queued_ns, queued_wall_ns in rows:
        if its_boot != boot:  # a wall clock that was set back makes nothing younger than now
            queued_ns = now_ns - max(0, now_wall_ns - queued_wall_ns)
        receipt = Receipt(queued_ns=queued_ns, key=key)
        messages.append(Message(topic, json.loads(payload), topics.CAPTION, receipt=receipt))
    return messages


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _wall_ns(receipt: Receipt) -> int:
    return time.time_ns() - (time.monotonic_ns() - receipt.queued_ns)
