"""What every wrapper of a recorded source shares: it is closed, and ends early, as what it wraps does."""

from __future__ import annotations

from app.sensors.contract import RecordedSource, SourceInfo


class Wrapper:
    def __init__(self, source: RecordedSource) -> None:
        self._source = source

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def ended_early(self) -> str | None:
        return self._source.ended_early

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    @property
    def dropped_events(self) -> int:
        return self._source.dropped_events

    async def close(self) -> None:
        await self._source.close()
