"""TLS and passwords against a real mosquitto: a wrong broker is told nothing, and secrets are in no log."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.logs import set_up_logging
from app.publishing.broker import read_password, read_secret
from app.publishing.dialer import Link
from app.publishing.errors import PublishError
from app.publishing.mqtt import Publisher
from tests.conftest import Mosquitto

SECRET = "correct-horse-battery"

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("mosquitto_passwd") is None, reason="needs openssl and mosquitto"
)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder: Path, name: str) -> tuple[Path, Path]:
    """A throwaway certificate authority: (certificate, key)."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", key, "-out", certificate),
    )
    return certificate, key


def certified(folder: Path, ca: tuple[Path, Path], names: str) -> tuple[Path, Path]:
    """A server's certificate for `names` (subjectAltName), signed by `ca`."""
    key, request, certificate = folder / "server.key", folder / "server.csr", folder / "server.pem"
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=broker"),
        *("-keyout", key, "-out", request),
    )
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName={names}\n")
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "2"),
        *("-extfile", extensions, "-out", certificate),
    )
    return certificate, key


Start = Callable[..., tuple[str, Path]]


@pytest.fixture
def broker(tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    """Start a mosquitto with TLS and a password: its URL (with the user) and its authority's certificate."""

    def start(names: str = "IP:127.0.0.1,DNS:localhost") -> tuple[str, Path]:
        ca = authority(tmp_path, "ours")
        certificate, key = certified(tmp_path, ca, names)
        passwords = tmp_path / "passwords"
        subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "rover", SECRET], check=True, capture_output=True)
        for path in (key, passwords):
            path.chmod(0o644)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            with contextlib.suppress(PermissionError):
                folder.chmod(folder.stat().st_mode | 0o055)  # mosquitto gives up being root before it reads them
        made = Mosquitto(
            tmp_path,
            f"certfile {certificate}\nkeyfile {key}\nallow_anonymous false\npassword_file {passwords}\nuser root",
        )
        made.start()
        request.addfinalizer(made.stop)
        return f"mqtts://rover@127.0.0.1:{made.port}", ca[0]

    return start


def connect(url: str, ca: Path | None, password: str | None = SECRET) -> None:
    """One connection and a clean stop. Raises PublishError when there is none."""

    async def scenario() -> None:
        publisher = Publisher(
            url,
            "robot",
            link=Link(password=password, ca_file=str(ca) if ca else None, connect_timeout_s=0.0, max_backoff_s=0.1),
        )
        running = asyncio.create_task(publisher.run())
        waiting = asyncio.create_task(publisher.connected.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED, timeout=10)
        publisher.stop()
        waiting.cancel()
        await running

    asyncio.run(scenario())


def test_the_broker_of_the_right_authority_and_name_is_let_in_on(broker: Start) -> None:
    connect(*broker())


def test_a_wrong_authority_is_refused(broker: Start, tmp_path: Path) -> None:
    url, _ = broker()
    other, _ = authority(tmp_path, "theirs")
    with pytest.raises(PublishError, match="certificate verify failed"):
        connect(url, other)
    with pytest.raises(PublishError, match="certificate verify failed"):
        connect(url, None)  # the system's authorities know neither


def test_a_wrong_host_name_is_refused(broker: Start) -> None:
    url, ca = broker("DNS:elsewhere.example")
    with pytest.raises(PublishError, match=r"certificate verify failed.*IP address mismatch"):
        connect(url, ca)


def test_a_wrong_password_is_refused_and_none_is_ever_logged(
    broker: Start, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    set_up_logging("debug", "json")
    url, ca = broker()
    connect(url, ca)
    with pytest.raises(PublishError, match="Not authorized") as refused:
        connect(url, ca, SECRET + "-wrong")
    secret = Link(password=SECRET)
    with pytest.raises(PublishError) as plain:
        Publisher(url.replace("mqtts", "mqtt"), "robot", link=secret)
    out, err = capfd.readouterr()
    for text in (out, err, str(refused.value), str(plain.value), repr(secret)):
        assert SECRET not in text


def test_no_password_crosses_a_plain_connection_unless_told_to() -> None:
    with pytest.raises(PublishError, match="a password would cross the network unencrypted; use mqtts://"):
        Publisher("mqtt://rover@127.0.0.1", "robot", link=Link(password=SECRET))
    Publisher("mqtt://rover@127.0.0.1", "robot", link=Link(password=SECRET, plain_password=True))
    with pytest.raises(PublishError, match="broker password: has no user"):
        Publisher("mqtts://127.0.0.1", "robot", link=Link(password=SECRET))
    with pytest.raises(PublishError, match="broker user: is in the URL and in a file"):
        Publisher("mqtts://rover@127.0.0.1", "robot", link=Link(username="rover"))


def test_secrets_come_from_files_and_systemd_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker-password").write_text(f"{SECRET}\nnot this line\n")
    assert read_password(file=tmp_path / "broker-password") == SECRET
    with pytest.raises(PublishError, match="no credential 'broker-password': add LoadCredential=broker-password"):
        read_secret("password", "credential:broker-password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password(file="credential:broker-password") == SECRET
    for name in ("../secret", "", "absent"):
        with pytest.raises(PublishError, match="broker password: "):
            read_password(file=f"credential:{name}")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(PublishError) as caught:
        read_secret("password", tmp_path / "binary")
    assert SECRET not in str(caught.value)
