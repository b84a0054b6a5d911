"""Figures of the server for Prometheus."""

from typing import Any

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; names begin with ``zoo_``."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        own: dict[str, Any] = {"registry": CollectorRegistry()}
        self.registry = own["registry"]
        self.requests = Counter("zoo_requests", "Requests that ended.", ["route", "status"], **own)
        self.seconds = Histogram("zoo_request_seconds", "Time of requests.", ["route"], buckets=SECONDS, **own)
        self.open = Gauge("zoo_open_requests", "Requests that wait or run.", **own)
        self.batches = Histogram("zoo_batch_items", "Items computed at once.", ["model"], buckets=ITEMS, **own)
        self.waits = Histogram("zoo_queue_seconds", "Time that the oldest request of a batch waited.", ["model"], buckets=SECONDS, **own)
        self.tokens = Counter("zoo_tokens", "Tokens of prompts and answers.", ["model", "kind"], **own)

    def batch(self, model: str, items: int, seconds: float) -> None:
        """Count one batch of a model."""
        self.batches.labels(model).observe(items)
        self.waits.labels(model).observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request that ended."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text form."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
