"""Where the broker is, and with what credentials: `mqtt://[user@]host[:port]` or `mqtts://…`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.publishing.errors import PublishError

CREDENTIAL = "credential:"  # instead of a file name: a credential that systemd hands over
_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Broker:
    """A parsed broker URL."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        user = f"{self.username}@" if self.username else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self}"


def parse_url(url: str) -> Broker:
    """Raises PublishError for anything but `mqtt[s]://[user@]host[:port]`; URLs are logged: no password in them."""
    form = "write mqtt://[user@]host[:port] or mqtts://…"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise PublishError(f"broker URL: {error}; {form}") from None
    if parts.password is not None:
        raise PublishError("broker URL: holds a password; name an environment variable or a file that holds it instead")
    if parts.scheme not in _PORTS:
        raise PublishError(f"broker URL {url!r}: unknown scheme {parts.scheme!r}; {form}")
    if not host or port == 0:
        raise PublishError(f"broker URL {url!r}: no usable {'port' if host else 'host'}; {form}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise PublishError(f"broker URL {url!r}: nothing may follow the port; {form}")
    username = unquote(parts.username) if parts.username else None
    return Broker(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", username)


def read_password(variable: str | None = None, file: str | Path | None = None) -> str | None:
    """The broker password from an environment variable or the first line of a file; None when neither is named.

    Raises PublishError when both are named, or the one that is named holds nothing.
    """
    if variable and file:
        raise PublishError("broker password: name an environment variable or a file, not both")
    if variable:
        if not (password := os.environ.get(variable)):
            raise PublishError(f"broker password: environment variable {variable} is not set")
        return password
    return read_secret("password", file) if file else None


def read_secret(what: str, file: str | Path) -> str:
    """The first line of a file, or of the systemd credential that `credential:NAME` names.

    Raises PublishError when there is none; the text names the file, never what it holds.
    """
    path = Path(file)
    if str(file).startswith(CREDENTIAL):
        folder, name = os.environ.get("CREDENTIALS_DIRECTORY"), str(file).removeprefix(CREDENTIAL)
        if folder is None or "/" in name or not name:
            raise PublishError(
                f"broker {what}: no credential {name!r}: add LoadCredential={name or 'NAME'}:/path to the systemd unit"
            )
        path = Path(folder) / name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PublishError(f"broker {what}: cannot read {path}: {reason}") from None
    if not lines or not lines[0]:
        raise PublishError(f"broker {what}: {path} is empty; write the {what} on its first line")
    return lines[0]
