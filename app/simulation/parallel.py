"""The strategies in which drafter and target run at once, each as `app.decoding` runs it. One or several devices."""

from __future__ import annotations

import math
from collections.abc import Callable

from app.decoding.ssd import NODES as OUTCOME_NODES
from app.decoding.ssd import fan_out
from app.decoding.swiftspec import NODES as TREE_NODES
from app.decoding.swiftspec import WIDTH
from app.simulation.clock import Process, Signal
from app.simulation.schedules import Run


def pearl(run: Run) -> Process:
    """PEARL (arXiv 2408.11850): pre-verify the first draft token, post-verify the pending block."""
    gamma = run.drafts_per_pass
    yield from run.side_by_side(_prefill(run), _first_draft(run, gamma))
    pending = run.case.run(0, 1) == 1  # the prefill's own logits pre-verify the first draft for nothing
    run.done = 1
    while not run.finished:
        wanted = gamma if pending else 1  # post-verify: the pending block's rest and the new block's first token
        yield from run.side_by_side(_target_pass(run, wanted), run.draft(gamma))
        stood = run.case.run(run.done, wanted)
        pending = stood == wanted
        run.done = min(run.length, run.done + stood + (not pending))


def amusd(run: Run) -> Process:
    """AMUSD (arXiv 2410.17375): two free-running loops and a rollback request."""
    draft = _FreeDrafter(run)
    yield from draft.begin()
    while not run.finished:
        drafts = draft.end - run.done
        if drafts == 0:
            yield draft.grown
            continue
        yield from _target_pass(run, drafts + 1)
        draft.judge(run.done, drafts)


def dsi(run: Run) -> Process:
    """DSI (arXiv 2405.14105): verify tasks on free target slots; a rejection cancels the later ones."""
    slots = max(1, run.devices - 1)
    lookahead = max(1, math.ceil(run.times.target_step_ms / (slots * run.times.drafter_step_ms)))
    draft = _FreeDrafter(run)
    yield from draft.begin()
    tasks = _Tasks(draft, slots, lookahead)
    for slot in range(slots):
        run.clock.start(tasks.serve(slot))
    while not run.finished:
        yield draft.grown


def ssd(run: Run) -> Process:
    """SSD (arXiv 2603.03251): while the target verifies, prepare the next draft for its likely outcomes."""
    gamma = run.drafts_per_pass
    outcomes = max(2, OUTCOME_NODES // gamma)
    growth = _Growth(run, gamma, run.begin_drafter())
    yield from growth.beside(_prefill(run), lambda level: outcomes * level)
    depth = growth.depth if run.case.ranks[0] < outcomes else 0  # the only unknown outcome is the first token
    run.done = 1
    while not run.finished:
        if depth == 0:  # a miss: draft just in time
            yield from run.draft(gamma)
            depth = gamma
        glue = run.tree_draft(depth + 1)  # one pass over the speculation gives every correction
        growth = _Growth(run, gamma, glue)
        yield from growth.beside(_target_pass(run, depth + 1), lambda level, d=depth: d + outcomes * level)  # type: ignore[misc]
        fans = fan_out(min(run.alpha, 0.999), depth, outcomes)
        stood = run.decide(depth)
        rank = run.case.ranks[run.done - 1]
        hit = rank < fans[stood] if stood == depth else 0 < rank <= fans[stood]  # the refused draft is no outcome
        depth = growth.depth if hit else 0


def swiftspec(run: Run) -> Process:
    """SwiftSpec (arXiv 2506.11309): a tree grows while its best part is verified, and is re-rooted after."""
    longest = 1 + TREE_NODES // WIDTH
    growth = _Growth(run, longest, run.begin_drafter(), depth=1)
    yield from growth.beside(_prefill(run), lambda level: WIDTH * level)
    depth = growth.depth - 1 if run.case.ranks[0] == 0 else 0  # the prefill decides the first token of the chain
    run.done = 1
    budget = max(run.drafts_per_pass, run.times.free_rows - 1)
    while not run.finished:
        if depth <= 0:  # off the tree: restart, and wait for its first level
            yield from run.draft(1)
            depth = 1
        chain, siblings = best_part(run.alpha, depth, budget)
        growth = _Growth(run, longest, depth=depth)
        yield from growth.beside(_target_pass(run, budget + 1), lambda level: min(TREE_NODES, WIDTH * level))
        stood = run.decide(chain)
        rank = run.case.ranks[run.done - 1]
        if stood < len(siblings) and 0 < rank <= siblings[stood]:
            run.done = min(run.length, run.done + 1)  # the correction was in the tree: the target's own token follows
        depth = growth.depth - chain - 1 if stood == chain and rank == 0 else 0


def best_part(alpha: float, depth: int, budget: int) -> tuple[int, list[int]]:
    """The `budget` likeliest drafts of a tree `depth` deep: the chain's length, and siblings of it at each level."""
    weights = [(alpha**level, level, 0) for level in range(1, depth + 1)]
    weights += [
        (alpha ** (level - 1) * alpha * (1 - alpha) ** rank, level, rank)
        for level in range(1, depth + 1)
        for rank in range(1, WIDTH)
    ]
    best = sorted(weights, key=lambda node: (-node[0], node[1]))[:budget]
    chain = max((level for _, level, rank in best if rank == 0), default=0)
    siblings = [sum(1 for _, level, rank in best if rank and level == n) for n in range(1, depth + 1)]
    return chain, siblings


def _prefill(run: Run) -> Process:
    yield from run.begin_target()
    yield from run.end_prefill()


def _target_pass(run: Run, rows: int) -> Process:
    yield run.target("step", run.times.verify_ms(rows))


def _first_draft(run: Run, count: int) -> Process:
    yield from run.begin_drafter()  # ends with the first token
    yield from run.draft(count - 1)


class _Growth:
    """Batched passes of the drafter beside a pass of the target: one level of a tree, or of all outcomes, each."""

    def __init__(self, run: Run, limit: int, first: Process | None = None, depth: int = 0) -> None:
        """first: what the drafter does before it; `depth`: levels that are there when that is done."""
        self.run, self.limit, self.first, self.depth = run, limit, first, depth

    def beside(self, target: Process, rows: Callable[[int], int]) -> Process:
        """Until the target's work and the drafter's pass at that time have ended; rows(level): of a level's pass."""
        ended = [False]

        def work() -> Process:
            yield from target
            ended[0] = True

        def grow() -> Process:
            if self.first:
                yield from self.first
            while not ended[0] and self.depth < self.limit:
                yield from self.run.tree_draft(rows(self.depth + 1))
                self.depth += 1

        yield from self.run.side_by_side(work(), grow())


class _FreeDrafter:
    """A drafter that never waits; `end` is how far its text reaches, `era` counts its rollbacks."""

    def __init__(self, run: Run) -> None:
        self.run, self.end, self.era = run, 0, 0
        self.restart = 0  # where it last began: blocks are counted from there
        self.grown = Signal()  # set at each token, verdict and rollback

    def begin(self) -> Process:
        """Until the target's prefill has ended and decided the first token; the drafter is somewhere ahead by then."""
        self.run.clock.start(self._loop())
        yield from _prefill(self.run)
        self.judge(0, 0)

    def _loop(self) -> Process:
        yield from self._step(self.run.begin_drafter())
        while not self.run.finished:
            if self.end < self.run.length:
                yield from self._step(self.run.draft(1))
            else:  # it said end-of-sequence
                yield self.grown

    def _step(self, work: Process) -> Process:
        era = self.era
        yield from work
        if era == self.era:
            self.end += 1
        self.run.clock.set(self.grown)

    def judge(self, start: int, drafts: int) -> bool:
        """The verdict on a block: decide its tokens, roll the drafter back where it left them. Whether it was right."""
        run = self.run
        stood = run.case.run(start, drafts)
        run.done = max(run.done, min(run.length, start + stood + 1))
        bonus = start + drafts  # where the target's own token meets what the drafter wrote meanwhile
        agrees = bonus >= run.length or bonus >= self.end or run.case.ranks[bonus] == 0
        right = stood == drafts and agrees
        if not right:
            self.era += 1
        if not right or self.end < run.done:
            self.end = self.restart = run.done
        run.clock.set(self.grown)
        return right


class _Tasks:
    """DSI's verify tasks: whole blocks of drafts, or the bare accepted prefix when nothing in flight decides."""

    def __init__(self, draft: _FreeDrafter, slots: int, lookahead: int) -> None:
        self.draft, self.free, self.lookahead = draft, slots, lookahead
        self.covered = draft.run.done  # up to here a task was started
        self.flying: list[int] = []  # eras of the tasks in flight
        self.ended: dict[int, int] = {}  # verified blocks, start -> drafts, whose predecessors are still in flight

    def serve(self, slot: int) -> Process:
        run, draft = self.draft.run, self.draft
        while not run.finished:
            drafts = self._next()
            if drafts is None:
                yield draft.grown
                continue
            start, era = self.covered, draft.era
            self.covered += drafts
            self.flying.append(era)
            self.free -= 1
            yield run.target("step", run.times.verify_ms(drafts + 1), slot)
            self.free += 1
            self.flying.remove(era)
            if era == draft.era:
                self.ended[start] = drafts
                self._apply()
            run.clock.set(draft.grown)

    def _next(self) -> int | None:
        """Drafts of the task to start now; None: there is nothing to start."""
        run, draft = self.draft.run, self.draft
        self.covered = max(self.covered, run.done)
        whole = draft.end - (0 if draft.end >= run.length else (draft.end - draft.restart) % self.lookahead)
        if whole > self.covered:
            return (whole if self.free == 1 else min(whole, self.covered + self.lookahead)) - self.covered
        return None if draft.era in self.flying else 0

    def _apply(self) -> None:
        run, draft = self.draft.run, self.draft
        while ready := [start for start in self.ended if start <= run.done]:
            start = min(ready)
            if not draft.judge(start, self.ended.pop(start)):
                self.ended.clear()
                self.covered = run.done
                return
