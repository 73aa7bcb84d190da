"""The papers' pseudo-code, each as its processes, run in simulated time. It shares nothing with the strategies.

A process yields how long its pass takes, or what it waits for. What it says of a pass is an `Event`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Sequence

from tests.app.decoding.scripted import DRAFTER, TARGET, Event, Script, Text
from tests.app.decoding.toy import EOS

Process = Generator[float | Callable[[], object], None, None]


def prefixes(text: Text, drafts: Text) -> list[Text]:
    """The texts behind which a pass over `drafts` asks for the next token."""
    return [text + drafts[:n] for n in range(len(drafts) + 1)]


class Simulation:
    """Processes in the order of their times."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.now = 0.0
        self.events: list[Event] = []
        self._order = 0
        self._timed: list[tuple[float, int, Process]] = []
        self._waiting: list[tuple[Callable[[], object], Process]] = []

    def run(self, *processes: Process) -> list[Event]:
        for process in processes:
            self.start(process)
        while self._timed:
            self.now, _, process = heapq.heappop(self._timed)
            self.start(process)
        return self.events

    def start(self, process: Process) -> None:
        """Let it go on until its next pass or wait; then whoever waited for what it did."""
        try:
            following = next(process)
        except StopIteration:
            pass
        else:
            if callable(following):
                self._waiting.append((following, process))
            else:
                self._order += 1
                heapq.heappush(self._timed, (self.now + following, self._order, process))
        for place, (reached, waiting) in enumerate(self._waiting):
            if reached():
                del self._waiting[place]
                self.start(waiting)
                break

    def record(self, what: str, texts: Sequence[Text]) -> None:
        self.events.append(Event(round(self.now, 3), what, tuple(sorted(texts))))

    # The two models

    def draft(self, text: Text, says: list[int]) -> Process:
        """One step of D behind `text`."""
        self.record(DRAFTER, [text])
        yield self.drafter_ms(text)
        says.append(self.script.drafter(text)[0][0])

    def drafter_ms(self, text: Text) -> float:
        first = not any(event.what == DRAFTER for event in self.events[:-1])
        return self.script.times.drafter_prefill if first else self.script.times.drafter_step

    def forward(self, text: Text, drafts: Text, picks: list[int]) -> Process:
        """One pass of T over `drafts` behind `text`: its own token behind each prefix."""
        self.record(TARGET, prefixes(text, drafts))
        yield self.script.times.target_step if text else self.script.times.target_prefill
        picks += [self.script.target(prefix)[0][0] for prefix in prefixes(text, drafts)]

    def both(self, first: Process, second: Process) -> Process:
        """In parallel, until both have ended."""
        left = [2]

        def one(process: Process) -> Process:
            yield from process
            left[0] -= 1

        self.start(one(first))
        self.start(one(second))
        yield lambda: not left[0]


def accept(drafts: Text, picks: Sequence[int]) -> int:
    """The first rejection: how many drafts are T's own picks."""
    n = 0
    while n < len(drafts) and drafts[n] == picks[n]:
        n += 1
    return n


def pearl(s: Simulation, gamma: int) -> Process:
    """Algorithm of PEARL: pre-verify while D drafts the first block, post-verify while it drafts the next one."""
    seq: Text = ()
    pending: Text = ()  # the block that T has not verified, without its first token
    mode = "PRE"

    def draft_block(text: Text, block: list[int]) -> Process:
        while len(block) < gamma and EOS not in (*text, *block):
            yield from s.draft(text + tuple(block), block)

    while EOS not in seq:
        block: list[int] = []
        picks: list[int] = []
        behind = seq + pending
        yield from s.both(s.forward(seq, pending, picks), draft_block(behind, block))
        if mode == "PRE":
            accepted = block[:1] == picks
            seq = (*behind, picks[0])
        else:
            judged = pending + tuple(block[:1])  # pending[1:], B[0]
            n = accept(judged, picks)
            accepted = n == len(judged) and bool(block)
            seq = seq + judged[:n] + (() if n == len(judged) and block else (picks[n],))
        mode, pending = ("POST", tuple(block[1:])) if accepted else ("PRE", ())
        if EOS in seq:
            return
        if not accepted and (behind + tuple(block))[: len(seq)] != seq:
            s.record("rolls back", [seq])


def amusd(s: Simulation, longest: int) -> Sequence[Process]:
    """The draft loop and the verify loop, coupled by the draft and by rollback requests."""
    draft: list[int] = []
    verified: Text = ()
    rollback: list[Text] = []

    def draft_loop() -> Process:
        nonlocal draft
        while EOS not in verified:
            if rollback:
                draft = list(rollback.pop())  # crop, go on from the verified tokens; acknowledged
            if EOS in draft or len(draft) >= longest:
                yield lambda: rollback or EOS in verified
                continue
            token: list[int] = []
            yield from s.draft(tuple(draft), token)
            if not rollback:
                draft += token

    def draft_is_longer() -> bool:
        return not rollback and len(draft) > len(verified)

    def verify_loop() -> Process:
        nonlocal verified
        picks: list[int] = []
        yield from s.forward((), (), picks)
        verified = tuple(picks)
        while EOS not in verified:
            if tuple(draft[: len(verified)]) != verified:
                rollback.append(verified)
                s.record("rolls back", [verified])
            yield draft_is_longer
            drafts = tuple(draft[len(verified) :])
            picks = []
            yield from s.forward(verified, drafts, picks)
            n = accept(drafts, picks)
            verified += drafts[:n] + ((picks[n],) if EOS not in drafts[:n] else ())

    return draft_loop(), verify_loop()


def dsi(s: Simulation, lookahead: int, targets: int, longest: int) -> Sequence[Process]:
    """Algorithm 1: a drafter that never waits, a task on the bare accepted prefix, a verify task every `lookahead`."""
    draft: list[int] = []
    accepted: Text = ()
    rollback: list[Text] = []
    free = 0
    restart = 0  # blocks are counted from where the drafter began
    tasks: list[Task] = []

    class Task:
        def __init__(self, text: Text, start: int) -> None:
            self.text, self.start, self.picks = text, start, list[int]()

        def run(self) -> Process:
            nonlocal free
            free -= 1
            yield from s.forward(self.text[: self.start], self.text[self.start :], self.picks)
            free += 1

        @property
        def decides(self) -> bool:
            return self.start <= len(accepted)

    def drafter() -> Process:
        nonlocal draft
        while EOS not in accepted:
            if rollback:
                draft = list(rollback.pop())
            if EOS in draft or len(draft) >= longest:
                yield lambda: rollback or EOS in accepted
                continue
            token: list[int] = []
            yield from s.draft(tuple(draft), token)
            if not rollback:
                draft += token

    def another_target(number: int) -> Process:
        nonlocal free
        s.record(TARGET, [])
        yield s.script.times.target_prefill + 10.0 * number
        free += 1

    def verdict() -> Task | None:
        return next((task for task in reversed(tasks) if task.picks and task.decides), None)

    def block() -> Text | None:
        """The drafts up to the end of the next whole block that no task holds; all blocks for the last free target."""
        text = accepted if rollback else tuple(draft)
        held = max([len(accepted), *(len(task.text) for task in tasks)])
        ends = [end for end in range(held + 1, len(text) + 1) if (end - restart) % lookahead == 0]
        if not rollback and (EOS in draft or len(draft) >= longest) and len(text) > held:
            ends = sorted({*ends, len(text)})
        return text[: ends[-1 if free == 1 else 0]] if ends else None

    def something_to_do() -> object:
        return verdict() or (free and (block() or not any(task.decides for task in tasks)))

    def verifier() -> Process:
        nonlocal accepted, free, restart, tasks
        picks: list[int] = []
        yield from s.forward((), (), picks)
        free += 1
        accepted = tuple(picks)
        while EOS not in accepted:
            if tuple(draft[: len(accepted)]) != accepted and not (rollback and rollback[0] == accepted):
                rollback[:] = [accepted]
                restart = len(accepted)
                s.record("rolls back", [accepted])
            for task in tasks:
                if task.text[: len(accepted)] != accepted:
                    s.record("cancels", [task.text])
            tasks = [task for task in tasks if task.text[: len(accepted)] == accepted]
            while free and not verdict():
                if text := block():
                    tasks.append(Task(text, max([len(accepted), *(len(task.text) for task in tasks)])))
                elif not any(task.decides for task in tasks):
                    tasks.append(Task(accepted, len(accepted)))
                else:
                    break
                s.start(tasks[-1].run())
            yield something_to_do
            if task := verdict():
                tasks.remove(task)
                drafts, picks = task.text[len(accepted) :], task.picks[len(accepted) - task.start :]
                n = accept(drafts, picks)
                accepted += drafts[:n] + ((picks[n],) if EOS not in drafts[:n] else ())
        for task in tasks:
            s.record("cancels", [task.text])

    return verifier(), drafter(), *(another_target(number) for number in range(1, targets))


def ssd(s: Simulation, depth: int, fans: Callable[[int], list[int]]) -> Sequence[Process]:
    """T verifies a speculation while D fills the cache with what to try after each of its likely outcomes."""
    text: Text = ()
    cache: dict[tuple[int, int], list[int]] = {}
    request: list[tuple[Text, Text | None, bool]] = [((), (), False)]  # text, speculation, is what follows text known?
    drafted: list[list[int]] = []

    def drafter() -> Process:
        while EOS not in text:
            behind, speculation, known = request.pop()
            if speculation is None:  # just in time
                block: list[int] = []
                while len(block) < depth and EOS not in block:
                    yield from s.draft(behind + tuple(block), block)
                drafted.append(block)
            else:
                yield from fill(behind, speculation, known)
            yield lambda: request or EOS in text

    def one_pass(nodes: Sequence[Text]) -> Process:
        s.record(DRAFTER, nodes)
        yield s.drafter_ms(())

    def fill(behind: Text, speculation: Text, known: bool) -> Process:
        mine, said = cache, speculation
        speculation = tuple(token for token in said if token != EOS)
        glue = prefixes(behind, speculation)
        nodes = glue[1:]
        if nodes or not known:
            yield from one_pass(nodes if known else glue)
        tips: dict[tuple[int, int], Text] = {}
        for k, fan in enumerate(fans(len(speculation))):
            likely = [token for token, _ in s.script.drafter(glue[k]) if token not in (*said[k : k + 1], EOS)]
            tips |= {(k, token): (*glue[k], token) for token in likely[:fan]}
        nodes = nodes + list(tips.values())
        for _ in range(depth):
            if request or EOS in text or not tips:
                return
            yield from one_pass(nodes)
            for outcome, tip in tips.items():
                mine.setdefault(outcome, []).append(s.script.drafter(tip)[0][0])
            tips = {v: (*tip, mine[v][-1]) for v, tip in tips.items() if mine[v][-1] != EOS}
            nodes = nodes + list(tips.values())

    def verifier() -> Process:
        nonlocal text, cache
        picks: list[int] = []
        yield from s.forward((), (), picks)
        text, outcome = tuple(picks), (0, picks[0])
        while EOS not in text:
            spoken = tuple(cache.get(outcome, ()))
            hit = bool(spoken)
            if not hit:
                drafted.clear()
                cache = {}
                request[:] = [(text, None, False)]
                yield lambda: drafted
                spoken = tuple(drafted[0])
            cache = {}
            request[:] = [(text, spoken, hit)]
            picks = []
            yield from s.forward(text, spoken, picks)
            n = accept(spoken, picks)
            text += spoken[:n] + ((picks[n],) if EOS not in spoken[:n] else ())
            outcome = n, text[-1]

    return verifier(), drafter()


def swiftspec(s: Simulation, width: int, most: int, count: int) -> Sequence[Process]:
    """D grows a tree of texts by their probability, T verifies the best `count` of it; a verdict moves the root."""
    verified: Text = ()
    told: list[Text] = []
    root: Text = ()
    nodes: list[Text] = []  # expanded
    weights: dict[Text, float] = {}
    asked = False  # what follows the root

    def leaves() -> list[Text]:
        return [text for text in weights if text not in nodes]

    def drafter() -> Process:
        nonlocal root, nodes, weights, asked
        while EOS not in verified:
            if told:
                root, inside = told[0], told[0] in nodes
                nodes = [text for text in nodes if inside and text[: len(root)] == root and text != root]
                scale = weights[root] if inside else 1.0
                weights = {
                    text: weight / scale
                    for text, weight in weights.items()
                    if inside and text[: len(root)] == root and text != root
                }
                asked = inside
                told.clear()
            if not asked:
                new = [root]
            else:
                likely = sorted((text for text in leaves() if text[-1] != EOS), key=lambda text: -weights[text])
                new = likely[: min(width, most - len(nodes))]
                nodes = nodes + new
            if not new:
                yield lambda: told or EOS in verified
                continue
            s.record(DRAFTER, nodes if asked else [root])
            yield s.drafter_ms(())
            asked = True
            for text in new:
                for token, probability in s.script.drafter(text)[:width]:
                    weights[*text, token] = weights.get(text, 1.0) * probability

    def verifier() -> Process:
        nonlocal verified
        picks: list[int] = []
        yield from s.forward((), (), picks)
        verified = tuple(picks)
        while EOS not in verified:
            told[:] = [verified]
            yield lambda: not told and weights
            best = sorted(weights, key=lambda text: (-weights[text], len(text)))[:count]
            s.record(TARGET, [verified, *best])
            yield s.script.times.target_step
            while (pick := s.script.target(verified)[0][0]) is not None:
                verified += (pick,)
                if verified not in best or pick == EOS:
                    break

    return verifier(), drafter()
