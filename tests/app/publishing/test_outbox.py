import asyncio
import threading
import time

from app.publishing import topics
from app.publishing.outbox import Message, Outbox


def caption(number: int) -> Message:
    return Message("caption", {"number": number}, topics.CAPTION)


def telemetry(number: int) -> Message:
    return Message("telemetry", {"number": number}, topics.TELEMETRY)


def taken(outbox: Outbox) -> list[int]:
    numbers = []
    while (message := outbox.take_nowait()) is not None:
        assert message.payload is not None
        numbers.append(message.payload["number"])
    return numbers


def test_the_oldest_goes_when_it_is_full() -> None:
    outbox = Outbox(max_messages=3)
    messages = [caption(i) for i in range(5)]
    for message in messages:
        outbox.put_nowait(message)
    assert outbox.dropped == {"full": 2}
    assert messages[0].receipt.dropped == "full"
    assert taken(outbox) == [2, 3, 4]


def test_telemetry_goes_before_captions() -> None:
    outbox = Outbox(max_messages=3)
    for message in (caption(0), telemetry(1), caption(2), caption(3), caption(4)):
        outbox.put_nowait(message)
    assert taken(outbox) == [2, 3, 4]
    assert outbox.dropped == {"full": 2}


def test_what_comes_back_is_next_and_counts() -> None:
    outbox = Outbox(max_messages=2)
    outbox.put_nowait(caption(0))
    first = outbox.take_nowait()
    assert first is not None
    outbox.put_nowait(caption(1))
    outbox.put_back(first)
    assert taken(outbox) == [0, 1]


def test_expired_and_late() -> None:
    outbox = Outbox(max_age_s=0.05, late_after_s=0.0)
    old = caption(0)
    outbox.put_nowait(old)
    time.sleep(0.06)
    outbox.put_nowait(caption(1))
    assert outbox.is_late(old)
    assert taken(outbox) == [1]
    assert outbox.dropped == {"expired": 1}


def test_a_thread_wakes_the_loop() -> None:
    async def scenario() -> list[int]:
        outbox = Outbox()
        waiting = asyncio.create_task(outbox.changed())
        await asyncio.sleep(0.01)
        thread = threading.Thread(target=outbox.put_nowait, args=(caption(7),))
        thread.start()
        await asyncio.wait_for(waiting, 2)
        thread.join()
        return taken(outbox)

    assert asyncio.run(scenario()) == [7]
