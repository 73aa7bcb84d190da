"""How the broker is called: version, TLS, credentials and last will; what a refusal means, and when to call again."""

from __future__ import annotations

import logging
import random
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from app.publishing.broker import Broker
from app.publishing.client import Client
from app.publishing.errors import PublishError

V5, V311 = aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311
REPLY_S = 5.0  # the longest wait for an answer of the broker
V5_REPLY_S = 2.0  # for the first answer to MQTT 5, which an older broker may meet with silence
HELD_S = 5.0  # a connection that held so long was a good one: the next try comes soon
BROKER_LOOKS_S = 4  # less is agreed on: mosquitto looks every 5 s, and the world is to know within 1.5 × keepalive
CREDENTIALS = {4, 5, 134, 135}  # refusals that no other protocol version mends; 3.1.1 and 5 number them differently

_paho_log = logging.getLogger("app.publishing.paho")
_paho_log.setLevel(logging.CRITICAL)  # what it says, our own errors say in one line


@dataclass(frozen=True, slots=True)
class Link:
    """How a broker is to be talked to.

    With `connect_timeout_s`, somebody waits for the first connection, and it must come about in that time. A password
    without TLS is refused unless `plain_password`. When the link goes dead without closing, the broker says `offline`
    within 1.5 × `keepalive_s`.
    """

    username: str | None = None  # or in the URL
    password: str | None = field(default=None, repr=False)
    plain_password: bool = False
    ca_file: str | None = None  # None: the system's authorities
    connect_timeout_s: float | None = None
    keepalive_s: int = 15
    max_backoff_s: float = 30.0  # the longest pause between two tries


class Dialer:
    """Makes the clients of one broker, and learns which version of MQTT it speaks.

    `will` makes the last will of a connection. Raises PublishError for a bad certificate file, and for a password that
    would go out for whoever listens to read, or for nobody.
    """

    def __init__(self, broker: Broker, link: Link, identifier: str, will: Callable[[], aiomqtt.Will]) -> None:
        _check_secrets(broker, link)
        self.broker = broker
        self.protocol = V5
        self.connections = 0  # how often one came about
        self._link, self._identifier, self._will = link, identifier, will
        self._tls = _tls_context(link.ca_file) if broker.tls else None
        self._attempt = 0  # failures since a connection held
        self._opened_s: float | None = None  # when the connection of this try came about

    def client(self) -> Client:
        return Client(
            self.broker.host,
            self.broker.port,
            username=self._link.username or self.broker.username,
            password=self._link.password,
            identifier=self._identifier,
            protocol=self.protocol,
            will=self._will(),
            keepalive=max(1, self._link.keepalive_s - BROKER_LOOKS_S),
            timeout=V5_REPLY_S if self.protocol is V5 and not self.connections else REPLY_S,
            max_queued_incoming_messages=100,
            # Without it a caption that follows a telemetry record waits for the broker's delayed ACK: 40 ms.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            tls_context=self._tls,
            logger=_paho_log,
        )

    def opened(self) -> None:
        """To be called when a connection came about."""
        self.connections += 1
        self._opened_s = time.monotonic()

    def try_other_protocol(self, error: Exception) -> bool:
        """Change the version when the broker may have refused it; whether to try the older one at once."""
        refused = isinstance(error, MqttConnectError) and _code(error) not in CREDENTIALS
        silent = str(error) == "Operation timed out"  # some 3.1.1 brokers close the connection without a word
        if self.connections or not (refused or silent):
            return False
        self.protocol = V311 if self.protocol is V5 else V5
        return self.protocol is V311

    def check_first_connection(self, error: Exception, started_s: float) -> None:
        """Raises PublishError when the first connection is refused, or does not come about in its time."""
        longest_s = self._link.connect_timeout_s
        if longest_s is None or self.connections:
            return
        if isinstance(error, MqttConnectError):
            what = "refused the connection"
        elif time.monotonic() - started_s >= longest_s:
            what = "no connection"
        else:
            return
        remedy = "start a broker there, name another with --mqtt URL, or run with --no-mqtt"
        raise PublishError(f"broker {self.broker}: {what} ({error_text(error)}); {remedy}") from None

    def retry_s(self) -> float:
        """Seconds before the next try, after one that ended now. Waiting for a host that is silent is no connection."""
        if self._opened_s is not None and time.monotonic() - self._opened_s > min(HELD_S, self._link.max_backoff_s):
            self._attempt = 0
        self._opened_s = None
        delay_s = backoff_s(self._attempt, self._link.max_backoff_s)
        self._attempt += 1
        waited_for = self._link.connect_timeout_s is not None and not self.connections  # by somebody at the terminal
        return min(delay_s, 0.5) if waited_for else delay_s


def backoff_s(attempt: int, longest_s: float) -> float:
    """Seconds before the next try: doubling from 0.5, capped; half is chance, lest a fleet comes back in step."""
    return min(longest_s, 0.5 * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


def error_text(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, MqttConnectError) and isinstance(error.rc, ReasonCode):
        return str(error.rc)  # its name
    text = str(error).partition("\n")[0] or type(error).__name__
    return text.partition("] ")[2] if text.startswith("[Errno") else text


def _code(error: MqttConnectError) -> int | None:
    code = getattr(error.rc, "value", error.rc)
    return code if isinstance(code, int) else None


def _check_secrets(broker: Broker, link: Link) -> None:
    """Raises PublishError where a password would go out for whoever listens to read, or for nobody."""
    if link.username and broker.username:
        raise PublishError("broker user: is in the URL and in a file; leave one out")
    if link.password and not (link.username or broker.username):
        raise PublishError("broker password: has no user; write mqtts://USER@host, or name mqtt.username_file")
    if link.password and not broker.tls and not link.plain_password:
        raise PublishError(
            f"broker {broker}: a password would cross the network unencrypted; use mqtts://, "
            "or set mqtt.plain_password: true"
        )


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise PublishError(f"broker certificate authority: cannot load {ca_file}: {error.strerror or error}") from None
