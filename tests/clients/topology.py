"""The names of section 1 of the wire contract."""

from collections.abc import Iterable

STEPS = ("1s", "5s", "30s", "2m", "10m")


def exchanges(prefix: str) -> list[str]:
    names = ["commands", "events", "unrouted", "dead", "expired", "kept", *(f"delay.{step}" for step in STEPS)]
    return [f"{prefix}.{name}" for name in names]


def queues(prefix: str, plugins: Iterable[str]) -> list[str]:
    names = ["core", "unrouted", "expired", "dead", *(f"delay.{step}" for step in STEPS)]
    names += [f"{kind}.{plugin}" for plugin in plugins for kind in ("plugin", "poll")]
    return [f"{prefix}.{name}" for name in names]
