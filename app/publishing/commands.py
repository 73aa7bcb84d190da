"""Commands over MQTT: checked strictly, carried out one by one, answered on `command/<name>/result`.

What arrives here was written by whoever may publish on the broker: every field has a bound, nothing names a file, and
whatever is wrong with a command is its answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Any, Literal, Protocol

import aiomqtt
import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.publishing.state_payloads import result_payload

MOST_BYTES = 16_384
MOST_AT_ONCE = 8  # commands being carried out; more are refused
REMEMBERED = 256  # correlation ids by which a command that is delivered again is known

Question = Field(min_length=1, max_length=2000)

log = structlog.get_logger(__name__)


class CommandError(Exception):
    """A command that is not carried out: one line for whoever sent it."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "String should be printable")
    return text


class Command(BaseModel):
    """What every command may carry: `id`, which comes back as the answer's `correlation`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    id: Annotated[str, Field(max_length=128), AfterValidator(_printable)] | None = None


class Pause(Command):
    """Caption nothing until `resume`; windows are counted as dropped."""


class Resume(Command):
    """Caption again."""


class Prompt(Command):
    """Put another question about every window; without one, the configured question again."""

    question: str | None = Field(default=None, min_length=1, max_length=2000)


class Ask(Command):
    """Put one question about what is to be seen now."""

    question: str = Question
    camera: str | None = Field(default=None, max_length=64)


class Record(Command):
    """Begin or end a recording of all cameras."""

    action: Literal["start", "stop"]
    seconds: float | None = Field(default=None, gt=0, le=86_400)


KINDS: Mapping[str, type[Command]] = {
    "pause": Pause,
    "resume": Resume,
    "prompt": Prompt,
    "ask": Ask,
    "record": Record,
}

Handler = Callable[[Any], Awaitable[Mapping[str, Any]]]


class Answers(Protocol):
    """Who sends the answers: the publisher."""

    node: str
    session: str

    def publish_result(self, payload: dict[str, Any], correlation: bytes | None) -> None: ...


def parse(name: str, payload: object) -> Command:
    """The command of that name. Raises CommandError for everything that is not exactly one."""
    if name not in KINDS:
        raise CommandError(f"unknown command; known: {', '.join(KINDS)}")
    data = _json(payload)
    try:
        return KINDS[name].model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:64]
        raise CommandError(f"{where or 'payload'}: {first['msg']}") from None


def _json(payload: object) -> Any:
    """Raises CommandError for what is too long or not JSON; no payload is an empty object."""
    text = bytes(payload) if isinstance(payload, bytes | bytearray) else b""
    if len(text) > MOST_BYTES:
        raise CommandError(f"payload: has {len(text)} bytes, at most {MOST_BYTES} are read")
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):  # json follows nesting with the C stack's limit
        raise CommandError("payload: is not a JSON object in UTF-8") from None


class Commander:
    """Takes commands from the connection and has them carried out by `handlers`, those that are in `allow`.

    `run` belongs in the caller's task group. `ignored` counts, by reason, what gets no answer.
    """

    def __init__(self, answers: Answers, handlers: Mapping[str, Handler], allow: Collection[str]) -> None:
        self._answers, self._handlers, self._allow = answers, handlers, frozenset(allow)
        self.ignored: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # by outcome: ok, refused
        self._waiting: asyncio.Queue[tuple[str, Command, str | None, bytes | None]] = asyncio.Queue(MOST_AT_ONCE)
        self._running = 0
        self._seen: deque[tuple[str, str]] = deque(maxlen=REMEMBERED)

    def take(self, name: str, message: aiomqtt.Message) -> None:
        """Check a command and queue it; returns at once. A retained or repeated one is ignored."""
        if message.retain:
            self.ignored["retained"] += 1  # an order of another day
            return
        raw = getattr(message.properties, "CorrelationData", None)
        correlation = _text(raw) if raw is not None else _claimed_id(message.payload)
        if not _answerable(name):
            self.ignored["no such topic"] += 1
            return
        if (name, correlation) in self._seen:
            self.ignored["repeated"] += 1
            return
        busy = self._running + self._waiting.qsize() >= MOST_AT_ONCE
        try:
            if name in KINDS and name not in self._allow:
                raise CommandError("not allowed here; see commands.allow in the configuration")
            command = parse(name, message.payload)
            if busy:
                raise CommandError(f"busy: {MOST_AT_ONCE} commands are being carried out; try again")
        except CommandError as error:
            self._answer(name, correlation, raw, error=str(error))
        else:
            self._waiting.put_nowait((name, command, correlation, raw))
        if correlation is not None and not busy:  # who was told to try again may do so under the same id
            self._seen.append((name, correlation))

    async def run(self) -> None:
        """Carry commands out, side by side: a long answer keeps no `pause` waiting."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._carry_out(*await self._waiting.get()))
                self._running += 1

    async def _carry_out(self, name: str, command: Command, correlation: str | None, raw: bytes | None) -> None:
        try:
            result = await self._handlers[name](command)
        except CommandError as error:
            self._answer(name, correlation, raw, error=str(error))
        except Exception as error:  # a bug of ours must not take the service down at anyone's command
            log.exception("command_failed", command=name)
            self._answer(name, correlation, raw, error=f"failed: {type(error).__name__}")
        else:
            self._answer(name, correlation, raw, result=result)
        finally:
            self._running -= 1

    def _answer(
        self,
        name: str,
        correlation: str | None,
        raw: bytes | None,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        self.answered["ok" if error is None else "refused"] += 1
        node, session = self._answers.node, self._answers.session
        payload = result_payload(node, session, name, correlation, result=result, error=error)
        self._answers.publish_result(payload, raw)


def _answerable(name: str) -> bool:
    """Whether a name that nobody has checked may stand in the topic of an answer."""
    return 0 < len(name) <= 64 and name.isascii() and name.isprintable() and not set(name) & set("/+#$ ")


def _text(raw: object) -> str:
    """Correlation data (any bytes) as text; hexadecimal where it is none."""
    data = bytes(raw) if isinstance(raw, bytes | bytearray) else b""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data[:128].hex()
    return text[:256] if text.isprintable() else data[:128].hex()


def _claimed_id(payload: object) -> str | None:
    """The `id` in a payload that may be anything else than a command, so that a refusal can be told apart, too."""
    try:
        data = _json(payload)
    except CommandError:
        return None
    found = data.get("id") if isinstance(data, dict) else None
    return found if isinstance(found, str) and len(found) <= 128 and found.isprintable() else None
