"""What each phase costs on this machine, and what a caption should cost by it (Leviathan et al., 2023, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest

MAX_DRAFT = 64  # no plan asks for more drafts in one verify pass
MAX_PAID = 16  # nor makes more at the caption's cost before it verifies them
FREE = 1.1  # a pass that costs less than this many steps is as good as a step

Curve = Sequence[float]  # [n], n = 0 … MAX_DRAFT: the probability that the first n drafts all stand; [0] is 1


def expected_accepted(alpha: float, drafts: int) -> float:
    """Expected accepted tokens of a chain of `drafts`, each standing with probability α: α + α² + … + αⁿ."""
    if alpha >= 1.0:
        return float(drafts)
    return alpha * (1.0 - alpha**drafts) / (1.0 - alpha)


def iid(alpha: float) -> Curve:
    """The curve of a draft whose tokens each stand with probability α."""
    return [alpha**n for n in range(MAX_DRAFT + 1)]


def accepted(curve: Curve, drafts: int) -> float:
    """Expected accepted tokens of a chain of `drafts`."""
    return sum(curve[1 : drafts + 1])


def longer_run(one: Curve, other: Curve) -> float:
    """Expected accepted tokens of two drafts, each as long as its curve, that fail independently."""
    return sum(1.0 - (1.0 - a) * (1.0 - b) for a, b in zip_longest(one[1:], other[1:], fillvalue=0.0))


NEVER: Curve = iid(0.0)  # of a source that does not exist
CERTAIN: Curve = iid(1.0)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase at its best thread count."""

    ms: float
    threads: int
    one_thread_ms: float


@dataclass(frozen=True)
class Costs:
    """Measured costs in milliseconds; every phase at its own best thread count.

    Curves of a first draft (behind the prompt) and of a later one differ: what follows a mistake is another text.
    """

    drafter_encode: Phase
    drafter_prefill: Phase
    drafter_step: Phase
    target_encode: Phase
    target_prefill: Phase
    target_step: Phase
    verify_row_ms: float  # what one more row costs a verify pass
    fused_row_ms: float  # what one more row costs the last prefill pass
    overlap_target_ms: float  # target encode + prefill on its share of the cores while the drafter runs on the rest
    overlap_alone_ms: float  # the same threads with the drafter still
    overlap_step_ms: float  # a drafter step meanwhile
    drafter_preprocess_ms: float = 0.0  # rendering a window's events and resizing the pictures
    overlap_threads: tuple[int, int] = (1, 1)  # (target, drafter) while both run
    verify_curve: dict[int, float] = field(default_factory=dict)  # rows, ascending -> ms
    fused_curve: dict[int, float] = field(default_factory=dict)  # drafts in the last prefill pass, ascending -> ms
    verify_tree_ms: float = 0.0  # what the masked form costs a verify pass more than the causal one
    fused_tree_ms: float = 0.0  # what ending the prefill with a tree costs more than ending it with a chain
    sharing: str = ""  # how both models shared one GPU meanwhile; "": they did not

    @property
    def drafter_start_ms(self) -> float:
        return self.drafter_encode.ms + self.drafter_prefill.ms

    def draft_ms(self, tokens: float) -> float:
        """A whole draft of `tokens` tokens, from the events on."""
        return self.drafter_preprocess_ms + self.drafter_start_ms + tokens * self.drafter_step.ms

    @property
    def target_start_ms(self) -> float:
        return self.target_encode.ms + self.target_prefill.ms

    def verify_ms(self, rows: int) -> float:
        """A verify pass of `rows` rows; one row is a decode step. Between measured rows, on the line between them."""
        table = self._verify_table
        return table[rows] if rows < len(table) else table[-1] + (rows - len(table) + 1) * self.verify_row_ms

    @cached_property
    def _verify_table(self) -> list[float]:
        """[rows]: asked for many times a pass."""
        table = [0.0, self.target_step.ms]
        for measured, ms in self.verify_curve.items():
            below, below_ms = len(table) - 1, table[-1]
            rise = max(0.0, ms - below_ms) / max(1, measured - below)
            table += [below_ms + rise * (rows - below) for rows in range(len(table), measured + 1)]
        return table + [table[-1] + self.verify_row_ms * n for n in range(1, MAX_DRAFT + 2 - len(table) + 1)]

    @cached_property
    def knee(self) -> int:
        """Rows that a verify pass carries for free: it costs no more than a decode step and a tenth."""
        return max(rows for rows in range(1, MAX_DRAFT + 1) if self.verify_ms(rows) <= FREE * self.target_step.ms)

    def verify_price(self, drafts: int) -> float:
        """What draft number `drafts` (0, 1, …) of a verify pass costs it, in target steps."""
        return (self.verify_ms(drafts + 2) - self.verify_ms(drafts + 1)) / self.target_step.ms

    def worth_verifying(self, curve: Curve, limit: int) -> int:
        """How many drafts that cost nothing to make are worth their rows in a verify pass."""
        return _worthwhile(curve, limit, self.verify_price)

    def speculative_token_ms(self, curve: Curve, drafts: int) -> float:
        """Cost of a verified token in the decode phase when each pass carries `drafts` fresh drafts."""
        spent = drafts * self.drafter_step.ms + self.verify_ms(drafts + 1)
        return spent / (1.0 + accepted(curve, drafts))

    def best_draft_length(self, curve: Curve) -> int:
        """The γ with the cheapest verified token; 0 when the target alone is cheaper (the guard)."""
        best, best_ms, tokens, drafting_ms = 0, self.target_step.ms, 1.0, 0.0
        for drafts, verify_ms in enumerate(self._verify_table[2 : MAX_PAID + 2], 1):
            tokens += curve[drafts]
            drafting_ms += self.drafter_step.ms
            if (token_ms := (drafting_ms + verify_ms) / tokens) < best_ms:
                best, best_ms = drafts, token_ms
        return best

    def fused_price(self, drafts: int) -> float:
        """What one more draft costs the last prefill pass, in target steps."""
        return self.fused_row_ms / self.target_step.ms

    def free_draft_length(self, curve: Curve, limit: int) -> int:
        """How many drafts that cost nothing to make are worth their rows in the fused pass: S(n) · step > row."""
        return _worthwhile(curve, limit, self.fused_price)

    def serial_draft_length(self, curve: Curve, limit: int) -> int:
        """As `free_draft_length`, when each draft also costs its step."""
        price = (self.fused_row_ms + self.drafter_step.ms) / self.target_step.ms
        return _worthwhile(curve, limit, lambda drafts: price)

    def decode_ms(self, later: Curve, tokens: float, drafter_started: bool) -> float:
        """The decode phase of `tokens` tokens, by whatever is cheapest."""
        gamma = self.best_draft_length(later) if drafter_started else 0
        return max(0.0, tokens) * self.speculative_token_ms(later, gamma)

    def autoregressive_ms(self, tokens: float) -> float:
        """Time to a caption of `tokens` tokens, end-of-sequence included, by the target alone."""
        return self.target_start_ms + (tokens - 1) * self.target_step.ms

    def speculative_ms(self, later: Curve, tokens: float) -> float:
        """The same by speculation after both prefills."""
        return self.target_start_ms + self.draft_ms(0) + self.decode_ms(later, tokens - 1, True)

    @property
    def drafts_per_pass(self) -> int:
        """Steps of the drafter within one pass of the target: T_target / T_draft, at least 1."""
        return max(1, min(MAX_DRAFT, round(self.target_step.ms / self.drafter_step.ms)))

    def parallel_ms(self, later: Curve, tokens: float, drafts: int) -> float:
        """The same by both models at once, in rounds like PEARL's: a pass over `drafts`, as many drafted meanwhile.

        Drafts that all stand are what a round yields. If not, it yields those that did and the target's own token; what
        was drafted beside it is lost, and the next round yields one token.
        """
        target_slow = max(1.0, self.overlap_target_ms / self.target_start_ms)
        drafter_slow = max(1.0, self.overlap_step_ms / self.drafter_step.ms)
        drafts = min(drafts, MAX_DRAFT)
        round_ms = max(drafts * self.drafter_step.ms * drafter_slow, self.verify_ms(drafts) * target_slow)
        lost = 1.0 - later[drafts]
        token_ms = round_ms * (1.0 + lost) / (accepted(later, drafts) + 2.0 * lost)
        start_ms = max(self.target_start_ms * target_slow, self.draft_ms(0) * drafter_slow)
        return start_ms + (tokens - 1) * token_ms

    def hiding_ms(
        self,
        first: Curve,
        tokens: float,
        placement: str | None,
        later: Curve | None = None,
        history: Curve = NEVER,
    ) -> float:
        """Time from the closed window to the caption by prefill hiding with the draft made at `placement`.

        placement None: the caption history proposes alone. first: of the drafter behind the prompt; `later` (the same
        unless given) in the decode phase; history: of the caption history behind the prompt.
        """
        limit, known = int(tokens), self.free_draft_length(history, int(tokens))
        before, prefill, drafts = 0.0, self.target_start_ms, 0
        if placement == "lead":
            drafts = self.free_draft_length(first, limit)
        elif placement == "serial":
            drafts = self.serial_draft_length(first, limit)
            before = self.draft_ms(drafts)
        elif placement == "overlap":
            started = self.drafter_preprocess_ms + self.drafter_start_ms
            ready = int(max(0.0, self.overlap_target_ms - started) / max(self.overlap_step_ms, 1e-6))
            drafts, prefill = min(self.free_draft_length(first, limit), ready), self.overlap_target_ms
        hits = longer_run(first[: drafts + 1], history[: known + 1])
        decode = self.decode_ms(first if later is None else later, tokens - 1 - hits, placement is not None)
        return before + prefill + max(drafts, known) * self.fused_row_ms + decode


def _worthwhile(curve: Curve, limit: int, price: Callable[[int], float]) -> int:
    """The longest draft each of whose tokens is expected to save more steps than it costs."""
    length, most = 0, min(limit, MAX_DRAFT)
    while length < most and curve[length + 1] > price(length):
        length += 1
    return length
