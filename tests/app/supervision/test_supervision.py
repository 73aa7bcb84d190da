"""Restart budgets, health, systemd's protocol, and what is served over HTTP."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from app.supervision import systemd
from app.supervision.budget import LONGEST_S, SLOW_S, RestartBudget
from app.supervision.health import Health
from app.supervision.http import ServeError, StatusServer


def test_a_budget_waits_longer_each_time_then_tries_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("app.supervision.budget.time.monotonic", lambda: now[0])
    budget = RestartBudget(3)
    delays = [budget.delay_s() for _ in range(3)]
    assert delays == sorted(delays)
    assert delays[-1] <= LONGEST_S
    assert not budget.spent
    assert budget.delay_s() == SLOW_S
    assert budget.spent
    now[0] += 601
    assert budget.delay_s() < 1
    assert not budget.spent
    assert budget.total == 5


def test_health_is_the_sum_of_its_parts() -> None:
    health, told = Health(), list[str]()
    health.on_change = lambda: told.append(health.state)
    assert health.state == "starting"
    health.set("model", "online")
    health.started()
    health.set("model", "online")  # no change
    health.set("broker", "unreachable", "Connection refused")
    assert health.reason == "broker: Connection refused"
    health.pause(True)
    assert health.reason == "paused by command; broker: Connection refused"
    health.pause(False)
    health.set("broker", "online")
    assert (health.state, health.reason) == ("online", None)
    assert told == ["starting", "online", "degraded", "degraded", "degraded", "online"]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_it_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"@{tmp_path}/notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + address[1:] if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert systemd.notify("READY=1", "STATUS=online")
        assert server.recv(1000) == b"READY=1\nSTATUS=online"
    assert not systemd.notify("READY=1"), "nobody listens any more"
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not systemd.notify("READY=1")


def test_the_watchdog_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert systemd.watchdog_s() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert systemd.watchdog_s() is None


def test_the_state_folder_is_the_one_that_systemd_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/event-captioner:/var/lib/other")
    assert systemd.state_folder() == Path("/var/lib/event-captioner")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert systemd.state_folder() == tmp_path / "event-captioner"


def test_healthz_and_metrics_are_served_and_nothing_else() -> None:
    registry, health = CollectorRegistry(), {"ok": True, "state": "online"}
    Gauge("seven", "Seven.", registry=registry).set(7)
    with StatusServer("127.0.0.1", 0, lambda: health, registry) as server:
        base = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{base}/healthz") as reply:
            assert json.load(reply) == health
        with urllib.request.urlopen(f"{base}/metrics") as reply:
            assert "seven 7.0" in reply.read().decode()
        health["ok"] = False
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{base}/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/etc/passwd")
        with pytest.raises(ServeError, match=r"name another service\.port"):
            StatusServer("127.0.0.1", server.port, lambda: health, registry)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{base}/healthz")
