"""Captions on disk: there after a SIGKILL, in order, gone when acknowledged, bounded, and never in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.publishing import topics
from app.publishing.errors import PublishError
from app.publishing.outbox import Message, Outbox
from app.publishing.store import Store

ROOT = Path(__file__).parents[3]


def caption(number: int) -> Message:
    return Message("robot/caption", {"id": f"s-front-{number}", "number": number}, topics.CAPTION)


def numbers(outbox: Outbox) -> list[int]:
    taken = []
    while (message := outbox.take_nowait()) is not None:
        assert message.payload is not None
        taken.append(message.payload["number"])
    return taken


def test_what_was_not_acknowledged_is_there_again_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "outbox.db")
    outbox = Outbox(store=store)
    for i in range(5):
        outbox.put_nowait(caption(i))
    outbox.put_nowait(Message("telemetry", {"number": 99}, topics.TELEMETRY))
    for _ in range(2):
        taken = outbox.take_nowait()
        assert taken is not None
        outbox.acknowledge(taken)
    taken = outbox.take_nowait()  # sent, and not acknowledged
    store.close()

    again = Store(tmp_path / "outbox.db")
    outbox = Outbox(late_after_s=0.0, store=again)
    outbox.put_nowait(caption(5))
    assert outbox.is_late(again.waiting[0])
    assert numbers(outbox) == [2, 3, 4, 5]
    again.close()


def test_committed_captions_survive_a_sigkill(tmp_path: Path) -> None:
    script = (
        "import sys, time; from tests.app.publishing.test_store import caption\n"
        "from app.publishing.outbox import Outbox; from app.publishing.store import Store\n"
        "outbox = Outbox(store=Store(sys.argv[1]))\n"
        "for i in range(50): outbox.put_nowait(caption(i))\n"
        "time.sleep(0.5); print('there', flush=True); time.sleep(60)"
    )
    path = tmp_path / "outbox.db"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "there\n"
        with pytest.raises(PublishError, match=r"outbox\.db: another process uses it; name another file"):
            Store(path)
        os.kill(child.pid, signal.SIGKILL)
    store = Store(path)
    assert numbers(Outbox(store=store)) == list(range(50))
    store.close()


def test_size_and_age_are_bounded_across_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "outbox.db")
    outbox = Outbox(store=store)
    for i in range(10):
        outbox.put_nowait(caption(i))
    store.close()
    store = Store(tmp_path / "outbox.db")
    outbox = Outbox(max_messages=4, store=store)
    assert outbox.dropped == {"full": 6}
    store.close()
    store = Store(tmp_path / "outbox.db")
    assert len(store.waiting) == 4
    outbox = Outbox(max_age_s=0.0, store=store)
    assert numbers(outbox) == []
    assert outbox.dropped == {"expired": 4}
    store.close()
    store = Store(tmp_path / "outbox.db")
    assert store.waiting == []
    store.close()


def test_after_a_reboot_the_wall_clock_tells_the_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "outbox.db")
    Outbox(store=store).put_nowait(caption(0))
    store.close()
    monkeypatch.setattr("app.publishing.store._boot_id", lambda: "another boot")
    hour_ns, now_ns = 3_600_000_000_000, time.time_ns()
    for ahead_ns, least, most in ((hour_ns, 3590, 3700), (-hour_ns, 0, 60)):
        monkeypatch.setattr("app.publishing.store.time.time_ns", lambda ahead_ns=ahead_ns: now_ns + ahead_ns)
        store = Store(tmp_path / "outbox.db")
        assert least <= store.waiting[0].age_s <= most
        store.close()


@pytest.mark.parametrize("damage", [b"no database at all, but long enough to be taken for one" * 100, b""])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(damage)
    store = Store(path)
    Outbox(store=store).put_nowait(caption(1))
    store.close()
    assert (tmp_path / "outbox.db.damaged").exists() == bool(damage)
    store = Store(path)
    assert len(store.waiting) == 1
    store.close()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match=r"cannot be made: .*; name another file in mqtt.outbox_file"):
        Store(tmp_path / "file" / "outbox.db")


@pytest.mark.parametrize("table", ["messages (id, text)", "invoices (id)"])
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, table: str) -> None:
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute(f"CREATE TABLE {table}")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(PublishError, match=r"theirs\.db: it is the database of another program; name another file"):
        Store(path)
    assert path.read_bytes() == before


def test_a_row_that_is_no_message_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path / "outbox.db")
    Outbox(store=store).put_nowait(caption(1))
    store.close()
    broken = sqlite3.connect(tmp_path / "outbox.db")
    broken.execute("UPDATE messages SET payload = '{'")
    broken.commit()
    broken.close()
    store = Store(tmp_path / "outbox.db")
    assert (store.waiting, store.failed) == ([], None)
    assert (tmp_path / "outbox.db.damaged").exists()
    store.close()


def captions_pass(store: Store) -> None:
    """Without a file: two captions go through, neither is kept, and the reason is told."""
    outbox = Outbox(store=store)
    for i in range(2):
        outbox.put_nowait(caption(i))
    taken = outbox.take_nowait()
    assert taken is not None
    outbox.acknowledge(taken)
    assert numbers(outbox) == [1]
    assert store.unstored == 2
    assert store.failed is not None
    store.close()
    print(store.failed)


def test_a_disk_that_is_full_at_the_start_costs_durability_not_captions(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from tests.app.publishing.test_store import Store, captions_pass\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "captions_pass(Store(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "outbox.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'outbox.db'}: disk I/O error" in done.stdout


def test_a_file_that_can_be_neither_read_nor_set_aside_costs_durability_not_captions(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    (tmp_path / "outbox.db.damaged").mkdir()
    store = Store(path)
    captions_pass(store)
    assert store.failed == f"{path}: Is a directory"


def test_a_disk_that_fails_costs_durability_not_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "outbox.db")
    outbox = Outbox(store=store)
    healthy = Store._commit

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Store, "_commit", full)
    outbox.put_nowait(caption(0))
    deadline = time.monotonic() + 5
    while store.failed is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "disk is full" in (store.failed or "")
    assert store.unstored == 1
    monkeypatch.setattr(Store, "_commit", healthy)
    outbox.put_nowait(caption(1))
    assert numbers(outbox) == [0, 1]
    store.close()
    assert store.failed is None
    store = Store(tmp_path / "outbox.db")
    assert [m.payload and m.payload["number"] for m in store.waiting] == [1]
    store.close()
