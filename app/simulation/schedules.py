"""One caption on the simulated clock, and the strategies in which the models take turns. No tokens are made."""

from __future__ import annotations

from app.decoding.costs import MAX_DRAFT, MAX_PAID, expected_accepted
from app.simulation.clock import Clock, Pass, Process, Signal
from app.simulation.inputs import CaptionCase, StepTimes


class Run:
    """One caption of one strategy. `done` tokens are decided; device 0 holds the target, the last one the drafter."""

    def __init__(self, times: StepTimes, case: CaptionCase, alpha: float, devices: int = 1, placement: str = "serial"):
        self.times, self.case, self.alpha, self.placement = times, case, alpha, placement
        self.devices = devices
        self.clock = Clock(times.slowdown)
        self.done = 0
        self.length = len(case.ranks)

    # -- passes ------------------------------------------------------------------------------------------------------

    def target(self, kind: str, ms: float, slot: int = 0) -> Pass:
        return Pass("target", slot, kind, ms)

    def drafter(self, kind: str, ms: float) -> Pass:
        return Pass("drafter", self.devices - 1, kind, ms)

    def begin_target(self) -> Process:
        yield self.target("prefill", self.times.host_ms + self.times.target_encode_ms)

    def end_prefill(self, drafts: int = 0) -> Process:
        """The last chunk, which carries `drafts` and decides on them."""
        yield self.target("prefill", self.times.target_prefill_ms + drafts * self.times.fused_row_ms)

    def begin_drafter(self) -> Process:
        """Up to its first distribution: the prefill is its first draft step."""
        yield self.drafter("prefill", self.times.drafter_start_ms)

    def draft(self, count: int) -> Process:
        for _ in range(count):
            yield self.drafter("step", self.times.drafter_step_ms)

    def tree_draft(self, rows: int) -> Process:
        """A pass of the drafter over so many rows; a row costs it the share of a step that it costs the target."""
        times = self.times
        yield self.drafter("step", times.drafter_step_ms * times.verify_ms(rows) / times.target_step_ms)

    def verify(self, drafts: int) -> Process:
        """One pass over the last token and the drafts; what it decides."""
        yield self.target("step", self.times.verify_ms(drafts + 1))
        self.decide(drafts)

    def decide(self, drafts: int) -> int:
        """Accept a chain of drafts from `done` on, and the target's own token; how many drafts stood."""
        accepted = self.case.run(self.done, drafts)
        self.done = min(self.length, self.done + accepted + 1)
        return accepted

    @property
    def finished(self) -> bool:
        return self.done >= self.length

    def side_by_side(self, first: Process, second: Process) -> Process:
        """Run two processes at once until both have ended."""
        ended, left = Signal(), [2]

        def one(process: Process) -> Process:
            yield from process
            left[0] -= 1
            self.clock.set(ended)

        self.clock.start(one(first))
        self.clock.start(one(second))
        while left[0]:
            yield ended

    # -- plans ---------------------------------------------------------------------------------------------------------

    def token_ms(self, gamma: int) -> float:
        """Expected cost of a verified token with γ drafts a pass."""
        spent = gamma * self.times.drafter_step_ms + self.times.verify_ms(gamma + 1)
        return spent / (1 + expected_accepted(self.alpha, gamma))

    @property
    def drafts_per_pass(self) -> int:
        """Steps of the drafter within one pass of the target, at least 1."""
        return max(1, min(MAX_DRAFT, round(self.times.target_step_ms / self.times.drafter_step_ms)))

    @property
    def best_gamma(self) -> int:
        return min(range(MAX_PAID + 1), key=self.token_ms)

    def worth(self, cost_ms: float) -> int:
        """Drafts that are worth `cost_ms` each: αⁿ · step > cost."""
        count = 0
        while count < MAX_DRAFT and self.alpha ** (count + 1) * self.times.target_step_ms > cost_ms:
            count += 1
        return min(count, self.length)


def autoregressive(run: Run) -> Process:
    yield from run.begin_target()
    yield from run.end_prefill()
    run.done = 1
    yield from _alone(run)


def _alone(run: Run) -> Process:
    while not run.finished:
        yield from run.verify(0)


def speculative(run: Run) -> Process:
    """Leviathan et al., 2023: both prefills, then γ drafts and one verify pass in turn."""
    yield from run.begin_target()
    yield from run.end_prefill()
    run.done = 1
    yield from run.begin_drafter()
    yield from _speculate(run, max(1, run.best_gamma))


def _speculate(run: Run, gamma: int) -> Process:
    while not run.finished:
        drafts = min(gamma, run.length - run.done)
        yield from run.draft(drafts)
        yield from run.verify(drafts)


def prefill_hiding(run: Run) -> Process:
    """The draft is made where `placement` says; the prefill's last chunk verifies it, and the history beside it."""
    times, drafts = run.times, 0
    if run.placement == "lead":
        drafts = run.worth(times.fused_row_ms)
        yield from run.begin_target()
    elif run.placement == "serial":
        drafts = run.worth(times.fused_row_ms + times.drafter_step_ms)
        if drafts:
            yield from run.begin_drafter()
            yield from run.draft(drafts - 1)
        yield from run.begin_target()
    else:
        made = [0]
        run.clock.start(_free_run(run, made, run.worth(times.fused_row_ms)))
        yield from run.begin_target()
        yield from run.end_prefill()
        drafts = made[0]
        yield run.target("prefill", (drafts + run.case.repeated) * times.fused_row_ms)
    if run.placement != "overlap":
        yield from run.end_prefill(drafts + run.case.repeated)
    accepted = max(run.case.run(0, drafts), run.case.repeated)
    run.done = min(run.length, accepted + 1)
    gamma = run.best_gamma
    yield from _speculate(run, gamma) if gamma else _alone(run)


def _free_run(run: Run, made: list[int], limit: int) -> Process:
    yield from run.begin_drafter()
    made[0] = 1
    while made[0] < limit:
        yield from run.draft(1)
        made[0] += 1
