"""Cuts synchronised windows out of a stream of events and frames."""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from app.event_buffer import EventBuffer
from app.frame_choice import FrameForecast, choose_frames, chosen_frames
from app.sensors.contract import Events, Frame, Item
from app.sensors.events import cut, empty
from app.windows import Window, WindowFrame


class Windower:
    """Pushes go in, closed windows come out; synchronous, and driven by nothing but sensor time.

    Window k is [first + k·hop, first + k·hop + length), `first` being the first item's sensor time. It closes when an
    item at or after its end arrives, when `tick` says that sensor time has passed its end, or on `finish`. A window
    without any event or frame is skipped and counted, so a jump in time costs nothing. With `lead_us`, every window is
    also given out as a partial one, holding what came before end - lead, once sensor time passes that instant; its
    `start_us` is that of the window it announces. With `stream`, a frame that is sure to be among those of the window
    that closes next is given out at once, in a partial window with all such frames so far.

    At the end of a recording, a remainder shorter than half a window is dropped (and counted) unless it is the only
    window there would be; a longer one ends where its data end.

    Indices count from `first_index`. Memory: the items of the open windows, at most `max_events` events and one batch;
    over that the oldest events go, because the drafter looks at the newest, and are counted by the windows they were
    in. A frame belongs where the middle of its exposure lies. `frames_tell_time` is False where frames come from a
    second device, or another way: they may then be ahead of the events, and close nothing; or longer under way, and
    then a window waits for those that it is to be given, as long as they still come, until sensor time is
    `frame_wait_us` past its end.
    """

    def __init__(
        self,
        length_us: int,
        hop_us: int,
        num_frames: int = 8,
        lead_us: int = 0,
        max_events: int = 20_000_000,
        *,
        resolution: tuple[int, int],
        first_index: int = 0,
        frames_tell_time: bool = True,
        frame_wait_us: int = 0,
        stream: bool = False,
    ) -> None:
        if not 0 < hop_us <= length_us:
            raise ValueError(f"window hop {hop_us} µs: must be above 0 and at most the length, {length_us} µs")
        if not 0 <= lead_us < length_us:
            raise ValueError(f"window lead {lead_us} µs: must be at least 0 and below the length, {length_us} µs")
        if num_frames < 1 or max_events < 1:
            raise ValueError("a window needs at least one frame and one event")
        self._length_us, self._hop_us, self._lead_us = length_us, hop_us, lead_us
        self._num_frames, self._max_events, self._resolution = num_frames, max_events, resolution
        self._first_index, self._frames_tell_time = first_index, frames_tell_time
        self._frame_wait_us, self._stream = 0 if frames_tell_time else frame_wait_us, stream
        self._first_us: int | None = None
        self._forecast = FrameForecast()
        self._led: Window | None = None  # the newest partial window whose draft is due
        self._now_us = 0  # the latest sensor time heard of, from an item or the clock
        self._next = 0  # grid position of the next window to close
        self._next_partial = 0
        self._given = first_index  # the index of the next window to close
        self._events = EventBuffer(max_events)
        self._frames: list[Frame] = []  # in time order
        self._gap = 0  # empty windows skipped since the last one given out
        self._over: Counter[int] = Counter()  # events dropped over the limit, by grid position of open windows
        self.late_frames = 0
        self.slow_frames = 0  # the same, of a second device: needed or not, they came after their window had closed
        self.excess_events = 0  # dropped: over max_events
        self.empty_windows = 0  # skipped: nothing in them
        self.dropped_remainders = 0

    @property
    def next_index(self) -> int:
        """The index for windows of whatever comes after this stream: none of its own had it, not even in part."""
        return max(self._given, self._led.index + 1 if self._led else 0)

    @property
    def late_events(self) -> int:
        """Dropped: they ran backwards, or their window had closed."""
        return self._events.late

    def push(self, item: Item) -> list[Window]:
        """Take one run of events or one frame; the windows it closes, oldest first."""
        if isinstance(item, Events) and not len(item):
            return []
        if self._first_us is None:
            self._first_us = int(item.t[0]) if isinstance(item, Events) else item.middle_us
            self._now_us = self._first_us
        if isinstance(item, Events):
            self._events.keep(item, self._start(self._next))
            self._now_us = max(self._now_us, self._events.last_us or self._now_us)
        else:
            self._keep_frame(item)
        windows = self._advance()
        self._limit()  # only now: events of the next window must not push out those of one that closes with them
        return windows + self._streamed() if isinstance(item, Frame) else windows

    def tick(self, now_us: int) -> list[Window]:
        """Sensor time is known, from a clock, to have reached `now_us` and all items before it to have arrived."""
        if self._first_us is None:
            return []
        self._now_us = max(self._now_us, now_us)
        return self._advance()

    def finish(self) -> list[Window]:
        """The stream has ended: the windows that are still open and hold enough."""
        windows: list[Window] = []
        if self._first_us is None:
            return windows
        events_us = self._events.last_us if self._events.count else None
        end_us = max(events_us or 0, self._frames[-1].middle_us if self._frames else 0) + 1
        while self._start(self._next) < end_us:
            start_us = self._start(self._next)
            have_us = end_us - start_us
            self._next += 1
            if 2 * have_us < self._length_us and self._given > self._first_index:
                self.dropped_remainders += 1
            elif have_us >= 0.95 * self._length_us:  # the last item of a full window rarely is at its very end
                windows += self._close(start_us, start_us + self._length_us)
            else:
                note = f"shorter than configured: {have_us / 1e6:.3f} s of {self._length_us / 1e6:g} s"
                windows += self._close(start_us, end_us, note)
        self._events.clear()
        self._frames.clear()
        return windows

    def _start(self, position: int) -> int:
        return (self._first_us or 0) + position * self._hop_us

    def _limit(self) -> None:
        """Let the oldest events over the limit go, and count them for every open window they were in."""
        for gone in self._events.limit():
            self.excess_events += len(gone)
            last = (int(gone.t[-1]) - self._start(0)) // self._hop_us
            for position in range(self._next, last + 1):
                self._over[position] += len(cut(gone, self._start(position), self._start(position) + self._length_us))

    def _keep_frame(self, frame: Frame) -> None:
        """Frames may come somewhat after events of the same instant: any open window still takes them."""
        if frame.middle_us < self._start(self._next):
            if self._frames_tell_time:
                self.late_frames += 1
            else:
                self.slow_frames += 1
        else:
            insort(self._frames, frame, key=lambda f: f.middle_us)
        self._forecast.observe(frame.middle_us)
        if self._frames_tell_time:
            self._now_us = max(self._now_us, frame.middle_us)

    def _advance(self) -> list[Window]:
        """Close, and give out in part, whatever sensor time has passed, in the order of those instants."""
        windows: list[Window] = []
        while (end_us := self._start(self._next) + self._length_us) <= self._now_us:
            windows += self._partials(end_us)
            if self._waits(end_us):
                return windows
            windows += self._close(end_us - self._length_us, end_us)
            self._next += 1
            self._forget()
            self._skip_empty()
        return windows + self._partials(self._now_us)

    def _waits(self, end_us: int) -> bool:
        """Whether a frame is still under way that the window ending there is to be given."""
        by_us = self._now_us - self._frame_wait_us
        if by_us >= end_us or not self._frame_wait_us:
            return False
        start_us = end_us - self._length_us
        times = [frame.middle_us for frame in self._frames[self._frame_at(start_us) : self._frame_at(end_us)]]
        return self._forecast.awaited(times, start_us, end_us, self._num_frames, by_us)

    def _partials(self, until_us: int) -> list[Window]:
        """The partial windows whose instant is at or before `until_us`, unless sensor time has passed their end."""
        windows: list[Window] = []
        if not self._lead_us:
            return windows
        self._next_partial = max(self._next_partial, self._next)
        while (ready_us := self._start(self._next_partial) + self._length_us - self._lead_us) <= until_us:
            start_us = self._start(self._next_partial)
            ahead = self._next_partial - self._next
            self._next_partial += 1
            if self._now_us < start_us + self._length_us:
                window = self._cut(start_us, ready_us, start_us + self._length_us, self._given + ahead, partial=True)
                windows += [window] if window else []
                self._led = window
        return windows

    def _streamed(self) -> list[Window]:
        """The window that closes next, when the frame that has come settles what it is given; its events once due."""
        start_us = self._start(self._next)
        chosen = self._settled(start_us, start_us + self._length_us)
        if not chosen:
            return []
        if self._led and self._led.start_us == start_us:
            return [replace(self._led, frames=chosen)]
        return [
            Window(
                index=self._given,
                start_us=start_us,
                end_us=start_us + self._length_us,
                events=empty(),
                frames=chosen,
                unused_frames=(),
                resolution=self._resolution,
                closed_ns=time.monotonic_ns(),
                partial=True,
                draft_due=False,
            )
        ]

    def _settled(self, start_us: int, end_us: int) -> tuple[WindowFrame, ...]:
        """The leading frames of an open window that are known already."""
        if not self._stream:
            return ()
        frames = self._frames[self._frame_at(start_us) : self._frame_at(end_us)]
        times = [frame.middle_us for frame in frames]
        return chosen_frames(frames, self._forecast.settled(times, start_us, end_us, self._num_frames))

    def _close(self, start_us: int, end_us: int, *notes: str) -> list[Window]:
        window = self._cut(start_us, end_us, end_us, self._given, notes=notes)
        if window is None:
            self._gap += 1
            self.empty_windows += 1
            return []
        self._given += 1
        self._gap = 0
        return [window]

    def _cut(
        self, start_us: int, until_us: int, end_us: int, index: int, partial: bool = False, notes: Sequence[str] = ()
    ) -> Window | None:
        """The window [start, end) with what lies before `until`; None when nothing does."""
        closed_ns = time.monotonic_ns()  # before anything is done about it: that is part of the latency
        events = self._events.between(start_us, until_us)
        frames = self._frames[self._frame_at(start_us) : self._frame_at(until_us)]
        if not len(events) and not frames:
            return None
        chosen, unused = choose_frames(frames, start_us, end_us, self._num_frames)
        if partial:
            chosen, unused = self._settled(start_us, end_us), ()
        real = sum(not frame.repeat for frame in chosen)
        told = list(notes)
        if 0 < real < len(chosen):
            told.append(f"frames repeated: {real} real")
        if self._gap:
            told.append(f"time jumped: {self._gap} empty windows before this one were skipped")
        dropped = self._over[(start_us - self._start(0)) // self._hop_us]
        if dropped:
            told.append(f"too many events: the oldest {dropped} are over the limit of {self._max_events}, dropped")
        return Window(
            index=index,
            start_us=start_us,
            end_us=end_us,
            events=events,
            frames=chosen,
            unused_frames=unused,
            resolution=self._resolution,
            closed_ns=closed_ns,
            partial=partial,
            notes=tuple(told),
            dropped_events=dropped,
        )

    def _frame_at(self, t_us: int) -> int:
        return bisect_left(self._frames, t_us, key=lambda f: f.middle_us)

    def _forget(self) -> None:
        """Let go of what no open window holds."""
        start_us = self._start(self._next)
        self._events.forget(start_us)
        del self._frames[: self._frame_at(start_us)]
        for position in [position for position in self._over if position < self._next]:
            del self._over[position]

    def _skip_empty(self) -> None:
        """Go on to the first window that holds anything there is, or that sensor time has not passed yet."""
        event_us = self._events.first_us(self._start(self._next))
        next_us = min(
            self._now_us if event_us is None else event_us,
            self._frames[0].middle_us if self._frames else self._now_us,
            self._now_us,
        )
        skipped = max(0, (next_us - self._start(self._next) - self._length_us) // self._hop_us + 1)
        self._next += skipped
        self._gap += skipped
        self.empty_windows += skipped
        if skipped:
            self._forget()
