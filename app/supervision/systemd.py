"""systemd's notification protocol (sd_notify(3)): datagrams of KEY=VALUE lines to the socket in $NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from platformdirs import user_state_path


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1`; False where nobody listens (not started by systemd)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def watchdog_s() -> float | None:
    """How often systemd wants to hear `WATCHDOG=1`, in seconds (half of its limit); None: it does not watch us."""
    pid, limit_us = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
    if not limit_us.isdigit() or int(limit_us) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit_us) / 2e6


def state_folder() -> Path:
    """Where what must survive a restart is kept: systemd's StateDirectory, else the user's state folder."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else user_state_path("event-captioner")
