"""Figures about a running server, in Prometheus' text format."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0, 50.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
RECENT = 1_000
"""Images of a model of which the share that was called anomalous is shown; on normal images it should be near alpha."""


class Metrics:
    """What is counted, in a registry of its own: several servers may be in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._latency = Histogram(
            "alocc_score_seconds", "From a request's body to its reply.", registry=registry, buckets=LATENCY
        )
        self._verdicts = Counter("alocc_images", "Images by verdict.", ["model", "verdict"], registry=registry)
        self._refused = Counter("alocc_refused", "Requests that were refused, by why.", ["reason"], registry=registry)
        self._scores = Histogram("alocc_anomaly_score", "Scores.", ["model"], registry=registry, buckets=SCORES)
        self._passes = Histogram("alocc_pass_images", "Images a pass.", ["model"], registry=registry, buckets=SIZES)
        self._busy = Counter("alocc_engine_seconds", "Time that an engine computed.", ["model"], registry=registry)
        self._waiting = Gauge("alocc_queue_images", "Images that wait for an engine.", ["model"], registry=registry)
        self._unwritten = Gauge("alocc_history_queue_rows", "Rows that are not in the history yet.", registry=registry)
        self._called = Gauge(
            "alocc_called_share", f"Anomalous among the last {RECENT:,} images.", ["model"], registry=registry
        )
        self._recent: dict[str, deque[bool]] = {}

    def took(self, seconds: float) -> None:
        """A request to score was answered."""
        self._latency.observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused, for a reason of a few fixed words."""
        self._refused.labels(reason).inc()

    def judged(self, model: str, verdict: str, anomaly_score: float) -> None:
        """An image has a verdict."""
        self._verdicts.labels(model, verdict).inc()
        self._scores.labels(model).observe(anomaly_score)
        self._recent.setdefault(model, deque(maxlen=RECENT)).append(verdict == "anomalous")

    def unusable(self, model: str) -> None:
        """An image could not be used."""
        self._verdicts.labels(model, "unusable").inc()

    def computed(self, model: str, n: int, seconds: float) -> None:
        """An engine computed n images in one pass."""
        self._passes.labels(model).observe(n)
        self._busy.labels(model).inc(seconds)

    def watch(self, model: str, waiting: Callable[[], float]) -> None:
        """Ask for the length of a model's queue, and its share of called images, whenever somebody wants to know."""
        self._waiting.labels(model).set_function(waiting)
        self._called.labels(model).set_function(lambda: self.called_share(model))

    def watch_history(self, unwritten: Callable[[], float]) -> None:
        """Ask for the number of rows that wait to be written whenever somebody wants to know."""
        self._unwritten.set_function(unwritten)

    def called_share(self, model: str) -> float:
        """Anomalous among the last images of a model, from 0 to 1; 0 if there are none."""
        recent = tuple(self._recent.get(model, ()))
        return sum(recent) / len(recent) if recent else 0.0

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
