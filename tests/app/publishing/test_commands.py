"""Commands: strict, bounded, answered; whatever is wrong with one is its answer, and nothing crashes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.publishing.commands import KINDS, MOST_AT_ONCE, MOST_BYTES, Command, Commander, CommandError, parse
from app.publishing.topics import Topics
from tests.app.publishing.schema_check import validate


@dataclass
class Sent:
    """A command as the connection hands it over."""

    payload: object
    retain: bool = False
    properties: Any = None


@dataclass
class Correlation:
    CorrelationData: bytes


@dataclass
class Answers:
    node: str = "robot"
    session: str = "s"
    given: list[dict[str, Any]] = field(default_factory=list)
    topics: Topics = field(default_factory=lambda: Topics("robot"))
    forms: set[tuple[bool, bool]] = field(default_factory=set)  # validated already: validating is slow

    def publish_result(self, payload: dict[str, Any], correlation: bytes | None) -> None:
        assert self.topics.result(payload["command"]).startswith("event-captioner/robot/command/")
        json.dumps(payload, allow_nan=False).encode()
        form = payload["correlation"] is None, payload["ok"]
        if form not in self.forms:
            validate(payload)
            self.forms.add(form)
        self.given.append(payload)


def commander(answers: Answers, allow: tuple[str, ...] = tuple(KINDS)) -> Commander:
    async def done(command: Command) -> Mapping[str, Any]:
        return {"paused": True}

    return Commander(answers, dict.fromkeys(KINDS, done), allow)


def take(made: Commander, name: str, payload: object, **options: Any) -> None:
    made.take(name, Sent(payload, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("ask", b"{}", "question: Field required"),
        ("ask", b'{"question": ""}', "question: String should have at least 1 character"),
        ("ask", json.dumps({"question": "x" * 2001}).encode(), "question: String should have at most 2000 characters"),
        ("ask", b'{"question": "now?", "file": "/etc/passwd"}', "file: Extra inputs are not permitted"),
        ("ask", b'{"question": 7}', "question: Input should be a valid string"),
        ("record", b'{"action": "erase"}', "action: Input should be 'start' or 'stop'"),
        ("record", b'{"action": "start", "seconds": 1e99}', "seconds: Input should be less than or equal to 86400"),
        ("record", b'{"action": "start", "seconds": NaN}', "seconds: Input should be a finite number"),
        ("pause", b'{"id": "two\\nlines"}', "id: String should be printable"),
        ("pause", json.dumps({"id": "x" * 129}).encode(), "id: String should have at most 128 characters"),
        ("pause", b"[]", "payload: Input should be a valid dictionary or instance of Pause"),
        ("pause", b"\xff\xfe", "payload: is not a JSON object in UTF-8"),
        ("pause", b"[" * 10_000, "payload: is not a JSON object in UTF-8"),
        ("pause", b" " * (MOST_BYTES + 1), f"payload: has {MOST_BYTES + 1} bytes, at most {MOST_BYTES} are read"),
        ("reboot", b"", "unknown command; known: pause, resume, prompt, ask, record"),
    ],
)
def test_what_is_wrong_with_a_command_is_its_answer(name: str, payload: bytes, error: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(name, payload)
    assert str(caught.value) == error
    answers = Answers()
    take(commander(answers), name, payload)
    assert [(a["ok"], a["error"]) for a in answers.given] == [(False, error)]


def test_the_answer_says_which_command_it_answers() -> None:
    async def scenario() -> None:
        answers = Answers()
        made = commander(answers)
        running = asyncio.create_task(made.run())
        take(made, "pause", b'{"id": "seven"}')
        take(made, "resume", b"", properties=Correlation(b"\xff\x00"))
        take(made, "resume", b"", properties=Correlation(b"eight"))
        await asyncio.sleep(0.05)
        running.cancel()
        assert [(a["command"], a["correlation"], a["ok"]) for a in answers.given] == [
            ("pause", "seven", True),
            ("resume", "ff00", True),
            ("resume", "eight", True),
        ]

    asyncio.run(scenario())


def test_retained_and_repeated_commands_are_ignored() -> None:
    answers = Answers()
    made = commander(answers, allow=())
    take(made, "pause", b"", retain=True)
    take(made, "pause", b'{"id": "one"}')
    take(made, "pause", b'{"id": "one"}')
    assert len(answers.given) == 1
    assert made.ignored == {"retained": 1, "repeated": 1}


def test_a_command_that_is_not_allowed_is_refused() -> None:
    answers = Answers()
    take(commander(answers, allow=("pause",)), "ask", b'{"question": "now?"}')
    assert answers.given[0]["error"] == "not allowed here; see commands.allow in the configuration"


def test_more_than_a_few_at_once_are_refused_and_a_bug_is_not_told() -> None:
    async def scenario() -> None:
        answers, go = Answers(), asyncio.Event()

        async def wait(command: Command) -> Mapping[str, Any]:
            await go.wait()
            raise RuntimeError("secret detail")

        made = Commander(answers, dict.fromkeys(KINDS, wait), tuple(KINDS))
        running = asyncio.create_task(made.run())
        for _ in range(MOST_AT_ONCE + 3):
            take(made, "pause", b"")
            await asyncio.sleep(0)
        assert [a["error"][:5] for a in answers.given] == ["busy:"] * 3
        go.set()
        await asyncio.sleep(0.05)
        running.cancel()
        assert [a["error"] for a in answers.given[3:]] == ["failed: RuntimeError"] * MOST_AT_ONCE

    asyncio.run(scenario())


def test_what_was_refused_as_busy_may_be_tried_again_under_the_same_id() -> None:
    async def scenario() -> None:
        answers = Answers()
        made = commander(answers)
        for number in range(MOST_AT_ONCE):
            take(made, "pause", b'{"id": "%d"}' % number)
        take(made, "pause", b'{"id": "again"}')
        running = asyncio.create_task(made.run())
        await asyncio.sleep(0.05)
        for _ in range(2):
            take(made, "pause", b'{"id": "again"}')
        await asyncio.sleep(0.05)
        running.cancel()
        assert [a["ok"] for a in answers.given if a["correlation"] == "again"] == [False, True]
        assert made.ignored == {"repeated": 1}

    asyncio.run(scenario())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
ODD = ["../status", "$SYS", "a b", "é", "ask\x00", "+", "#", ""]
hostile_names = st.text(max_size=70) | st.sampled_from([*KINDS, *ODD])
hostile_payloads = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())


@given(hostile_names, hostile_payloads, st.binary(max_size=9))
def test_any_payload_on_any_topic_is_answered_or_ignored(name: str, payload: bytes, correlation: bytes) -> None:
    answers = Answers()
    made = commander(answers, allow=())  # so that even a good one is refused
    take(made, name, payload, properties=Correlation(correlation) if correlation else None)
    assert len(answers.given) + sum(made.ignored.values()) == 1
    assert not any(a["ok"] for a in answers.given)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_commands_are_each_refused(count: int) -> None:
    chance, answers = random.Random(0), Answers()
    made = commander(answers)
    good = b'{"question": "What is there?", "camera": "front"}'
    for number in range(count):
        mangled = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            mangled[chance.randrange(len(mangled))] = chance.randrange(256)
        kind = chance.choice(["cut", "nested", "extra", "type", "noise"])
        payload: bytes = {
            "cut": good[: chance.randrange(1, len(good))],
            "nested": b'{"question":' * chance.randrange(1, 200),
            "extra": b'{"question": "x", "%d": 1}' % number,
            "type": json.dumps({"question": chance.choice([1, None, [], {}, True, 1.5])}).encode(),
            "noise": bytes(chance.randrange(128, 256) for _ in range(chance.randrange(1, 300))),
        }[kind]
        take(made, "ask", payload)
    assert len(answers.given) == count
    assert not any(a["ok"] for a in answers.given)
