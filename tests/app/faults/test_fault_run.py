"""The fault run itself: a few rounds on real processes, and its books, which must find what is wrong."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.config import load_config
from app.faults.books import Received, balance, prepare
from app.faults.rounds import FaultRun, failures
from tests.conftest import Mosquitto


@pytest.mark.timeout(0)
@pytest.mark.parametrize("rounds", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_that_was_committed_is_lost(rounds: int, mosquitto: Mosquitto, tiny_config: Path) -> None:
    mosquitto.stop()  # it is installed; the run has its own
    folder = tiny_config.parent / "run"
    folder.mkdir()
    found: dict[str, Any] = FaultRun(load_config(tiny_config), folder, seed=2).run(rounds, lambda text: None)
    print(json.dumps(found, indent=2))
    assert found["rounds"] == rounds == sum(found["faults"].values())
    assert found["committed"] > rounds
    assert not failures(found)


def test_what_must_not_be_is_named() -> None:
    found = {"rounds": 9, "lost": 0, "doubled_ids": 0, "out_of_order": 0, "leaks": 0, "lost_by_broker": 3}
    assert failures(found | {"late_offline": 0, "slow_stop": False}) == []
    assert failures(found | {"late_offline": 1, "slow_stop": True}) == ["late_offline", "slow_stop"]


def books(folder: Path, received: list[tuple[str, str]], *, acknowledged: tuple[str, ...] = ()) -> dict[str, int]:
    """The balance when a, b and c were committed."""
    database = folder / "outbox.db"
    prepare(database)
    with sqlite3.connect(database) as connection:
        for key, id_ in enumerate("abc"):
            connection.execute("INSERT INTO messages VALUES (?, ?, '', '', '', 0, 0)", (key, id_))
        for id_ in acknowledged:
            connection.execute("DELETE FROM messages WHERE id = ?", (id_,))
    connection.close()
    return balance(database, cast(Received, SimpleNamespace(captions=received, outages=[])))


def test_the_books_balance_and_allow_a_repeat(tmp_path: Path) -> None:
    found = books(tmp_path, [("a", "1"), ("b", "2"), ("b", "2"), ("c", "3")], acknowledged=("a", "b", "c"))
    assert found == {
        "committed": 3,
        "received": 3,
        "repeats": 1,
        "lost": 0,
        "doubled_ids": 0,
        "out_of_order": 0,
        "lost_by_broker": 0,
    }


def test_the_books_find_what_is_lost_doubled_or_out_of_order(tmp_path: Path) -> None:
    found = books(tmp_path, [("b", "2"), ("a", "1"), ("a", "another")], acknowledged=("c",))
    assert found["lost"] == 1, "acknowledged by a broker that was never away, and not received"
    assert found["doubled_ids"] == 1
    assert found["out_of_order"] == 1
