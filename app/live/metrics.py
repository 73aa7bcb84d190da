"""The service's counters as Prometheus metrics, read at the moment of a scrape: nothing is counted twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.live.service import Service
from app.publishing.commands import Commander
from app.records import Caption, Dropped
from app.telemetry.gpu import read_gpus, read_thermal
from app.windows import Window

LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
PREFIX = "event_captioner"


class Latency:
    """A sink that sorts every caption's time from the window's end to its last token into a histogram."""

    def __init__(self, registry: CollectorRegistry, camera: str, histogram: Histogram) -> None:
        self._times = histogram.labels(camera)

    @staticmethod
    def histogram(registry: CollectorRegistry) -> Histogram:
        return Histogram(
            f"{PREFIX}_sensor_to_caption_seconds",
            "From the end of a window to its verified caption.",
            ["camera"],
            buckets=LATENCY_S,
            registry=registry,
        )

    def on_caption(self, caption: Caption) -> None:
        self._times.observe((caption.finished_ns - caption.window.closed_ns) / 1e9)

    def on_dropped(self, dropped: Dropped) -> None:
        """Counted by the service."""

    def on_draft(self, window: Window, text: str) -> None:
        """No caption yet."""


class ServiceMetrics(Collector):
    """What `service` and `commander` have counted; register it once both are there."""

    def __init__(self, service: Service, commander: Commander | None) -> None:
        self._service, self._commander = service, commander

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(self)
        ProcessCollector(registry=registry)  # resident memory, CPU time, open files

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked at before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._windows()
        yield from self._streams()
        yield from self._parts()
        yield from self._messages()
        yield from _hardware()

    def _windows(self) -> Iterator[Metric]:
        arrived = _counter("windows_arrived", "Windows that closed.", "camera")
        captioned = _counter("windows_captioned", "Windows with a verified caption handed on.", "camera")
        dropped = _counter("windows_dropped", "Windows without a caption.", "camera", "reason")
        for name, counts in self._service.counts.items():
            arrived.add_metric([name], counts.arrived)
            captioned.add_metric([name], counts.captioned)
            for reason, count in list(counts.dropped.items()):
                dropped.add_metric([name, reason], count)
        yield from (arrived, captioned, dropped)

    def _streams(self) -> Iterator[Metric]:
        age = _gauge("stream_age_seconds", "Since the last data of a stream.", "camera", "stream")
        up = _gauge("stream_up", "1 while a stream gives data.", "camera", "stream")
        lost = _counter("camera_lost", "Events, frames and windows that came to nothing.", "camera", "what")
        restarts = _counter("restarts", "How often a part was started again.", "part")
        for name, camera in self._service.cameras.items():
            for stream, state in camera.streams.items():
                up.add_metric([name, stream], state.state == "online")
                if state.last_ns is not None:
                    age.add_metric([name, stream], (time.monotonic_ns() - state.last_ns) / 1e9)
            for what, count in (camera.lost | {"frames_without_clock": camera.frames_without_clock}).items():
                lost.add_metric([name, what], count)
            restarts.add_metric([f"camera {name}"], camera.budget.total)
        restarts.add_metric(["model"], self._service.worker.budget.total)
        restarts.add_metric(["publisher"], self._service.publisher_budget.total)
        yield from (age, up, lost, restarts)
        yield from self._clocks()

    def _clocks(self) -> Iterator[Metric]:
        """Of cameras that are two devices, once both were heard; and what the gate makes of a scene."""
        offset = _gauge("clock_offset_seconds", "Event time less frame time.", "camera")
        offset_error = _gauge("clock_offset_uncertainty_seconds", "Two standard errors of it.", "camera")
        drift = _gauge("clock_drift_ppm", "By which the offset grows.", "camera")
        drift_error = _gauge("clock_drift_uncertainty_ppm", "Two standard errors of it.", "camera")
        for name, camera in self._service.cameras.items():
            if (sync := camera.sync) is not None:
                offset.add_metric([name], sync.offset_us / 1e6)
                offset_error.add_metric([name], sync.uncertainty_us / 1e6)
                drift.add_metric([name], sync.drift_ppm)
                drift_error.add_metric([name], sync.drift_uncertainty_ppm)
        still = _gauge("scene_still", "1 while the event-rate gate finds nothing that moves.", "camera")
        for name, gate in self._service.captioning.gates.items():
            still.add_metric([name], gate.still)
        yield from (offset, offset_error, drift, drift_error, still)

    def _parts(self) -> Iterator[Metric]:
        ok = _gauge("part_ok", "1 while a part is as it should be.", "part")
        for name, part in list(self._service.health.parts.items()):
            ok.add_metric([name], part.ok)
        yield ok
        yield GaugeMetricFamily(f"{PREFIX}_paused", "1 while paused by command.", self._service.health.paused)
        yield GaugeMetricFamily(
            f"{PREFIX}_model_busy_seconds", "How long the model has been at its window.", self._service.worker.busy_s
        )
        recorder = self._service.recorder
        yield GaugeMetricFamily(f"{PREFIX}_recording", "1 while a recording is written.", recorder.recording)
        yield CounterMetricFamily(f"{PREFIX}_recording_left_out", "Events and frames not recorded.", recorder.left_out)

    def _messages(self) -> Iterator[Metric]:
        publisher, store = self._service.publisher, self._service.store
        if publisher is not None:
            yield GaugeMetricFamily(f"{PREFIX}_broker_up", "1 while connected.", publisher.connected.is_set())
            yield CounterMetricFamily(f"{PREFIX}_broker_connections", "Connections so far.", publisher.connections)
            yield GaugeMetricFamily(f"{PREFIX}_messages_waiting", "Not acknowledged yet.", publisher.unsent)
            dropped = _counter("messages_dropped", "Messages that were lost.", "reason")
            for reason, count in list(publisher.outbox.dropped.items()):
                dropped.add_metric([reason], count)
            yield dropped
        if store is not None:
            yield CounterMetricFamily(f"{PREFIX}_captions_not_kept", "Sent, but not on disk.", store.unstored)
        if self._commander is not None:
            commands = _counter("commands", "Commands by outcome.", "outcome")
            for outcome, count in [*self._commander.answered.items(), *self._commander.ignored.items()]:
                commands.add_metric([outcome], count)
            yield commands


def _hardware() -> Iterator[Metric]:
    used, total = (_gauge(f"gpu_memory_{what}_bytes", f"GPU memory, {what}.", "gpu") for what in ("used", "total"))
    heat = _gauge("temperature_celsius", "Of a GPU or a thermal zone.", "sensor")
    throttled = _gauge("gpu_throttled", "1 while heat or power slow the GPU down.", "gpu")
    for gpu in read_gpus():
        used.add_metric([gpu.name], gpu.memory_used)
        total.add_metric([gpu.name], gpu.memory_total)
        heat.add_metric([gpu.name], gpu.celsius)
        throttled.add_metric([gpu.name], gpu.throttled)
    for zone, celsius in read_thermal().items():
        heat.add_metric([zone], celsius)
    yield from (used, total, heat, throttled)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
