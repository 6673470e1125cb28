"""The plain counters of the hot path end as what Prometheus itself would have counted."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.core.telemetry import FastCounter, FastHistogram


def samples(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


def test_a_fast_histogram_ends_as_the_slow_one():
    values, buckets = [0.05, 0.1, 0.1001, 0.9, 5.0], (0.1, 0.5, 1.0)
    fast_registry, slow_registry = CollectorRegistry(), CollectorRegistry()
    fast = FastHistogram(Histogram("duration", "Time.", buckets=buckets, registry=fast_registry))
    slow = Histogram("duration", "Time.", buckets=buckets, registry=slow_registry)
    for value in values:
        fast.observe(value)
        slow.observe(value)
    fast.flush()
    fast.flush()  # moves nothing twice
    assert samples(fast_registry) == samples(slow_registry)


def test_a_fast_counter_ends_as_the_slow_one():
    fast_registry, slow_registry = CollectorRegistry(), CollectorRegistry()
    fast = FastCounter(Counter("events", "Events.", ["kind"], registry=fast_registry))
    slow = Counter("events", "Events.", ["kind"], registry=slow_registry)
    for kind, amount in (("a", 1), ("b", 2), ("a", 3)):
        fast.add((kind,), amount)
        slow.labels(kind).inc(amount)
    fast.flush()
    fast.flush()
    assert samples(fast_registry) == samples(slow_registry)


def test_label_values_beyond_the_limit_share_a_series(monkeypatch):
    monkeypatch.setattr("app.core.telemetry.LABEL_SETS_MAX", 2)
    registry = CollectorRegistry()
    fast = FastCounter(Counter("events", "Events.", ["kind"], registry=registry))
    for round_ in (1, 2):
        for kind in "abcd":
            fast.add((kind,), round_)
        fast.flush()
    found = {
        kind: registry.get_sample_value("events_total", {"kind": kind}) for kind in ("a", "b", "c", "other")
    }
    assert found == {"a": 3, "b": 3, "c": None, "other": 6}
