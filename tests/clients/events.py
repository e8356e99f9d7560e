"""Reads an event as the official CloudEvents SDK does, and holds it to section 3 of the wire contract.

Every event that a story receives goes through `read_event`, whatever the story is about. Up: driver.py.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event
from pika import BasicProperties

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

RECORD = {"id", "name", "community", "status", "parameters", "outcome", "errors", "version", "created_at", "updated_at"}
MAYBE_IN_RECORD = {
    "community_platform_id",
    "url",
    "initiator",
    "callback_url",
    "closes_at",
    "closed_at",
    "problem",
}
INSTANCE = {"id", "name", "community", "config", "created_at", "updated_at"}

# The members of `data` by type: those that must be there, those that may be.
MEMBERS: dict[str, tuple[set[str], set[str]]] = {
    "action.completed": ({"action", "output", "attempts"}, {"initiator"}),
    "action.failed": ({"action", "problem", "attempts"}, {"initiator"}),
    "action.uncertain": ({"action", "problem", "attempts"}, {"initiator"}),
    "process.started": (RECORD, MAYBE_IN_RECORD),
    "process.updated": (RECORD, MAYBE_IN_RECORD),
    "process.completed": (RECORD, MAYBE_IN_RECORD),
    "process.failed": (RECORD | {"problem"}, MAYBE_IN_RECORD),
    "plugin.enabled": (INSTANCE, {"community_platform_id"}),
    "plugin.updated": (INSTANCE, {"community_platform_id"}),
    "plugin.disabled": (INSTANCE, {"community_platform_id"}),
    "community.applied": ({"slug", "plugins"}, {"readable_name"}),
    "community.deleted": ({"slug", "plugins"}, {"readable_name"}),
    "command.rejected": ({"routing_key", "problem"}, set()),
}

STATUS = {
    "process.started": "pending",
    "process.updated": "pending",
    "process.completed": "completed",
    "process.failed": "failed",
}


@dataclass(frozen=True)
class Event:
    """An event with the message that it came in."""

    routing_key: str | None
    properties: BasicProperties
    body: bytes
    attributes: dict[str, Any]
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return self.attributes["id"]

    @property
    def causation_id(self) -> str | None:
        return self.attributes.get("causationid")

    @property
    def type(self) -> str:
        return self.attributes["type"].removeprefix("org.metagov.")


def read_event(routing_key: str | None, properties: BasicProperties, body: bytes) -> Event:
    """Reads a message; `routing_key` is None for a reply, which comes under the name of its queue."""
    message = RabbitMQMessage(headers=properties.headers or {}, content_type=properties.content_type, body=body)
    cloud_event = from_rabbitmq_event(message)
    event = Event(routing_key, properties, body, dict(cloud_event.get_attributes()), cloud_event.get_data())
    check_message(event)
    check_attributes(event)
    check_data(event)
    if routing_key is not None:
        assert routing_key == expected_routing_key(event)
    return event


def check_message(event: Event) -> None:
    properties, attributes = event.properties, event.attributes
    assert properties.content_type == "application/cloudevents+json"
    assert properties.delivery_mode == 2
    assert properties.message_id == attributes["id"]
    assert properties.type == attributes["type"]
    assert properties.correlation_id == attributes.get("correlationid")
    assert properties.headers["traceparent"] == attributes["traceparent"]


def check_attributes(event: Event) -> None:
    attributes, data = event.attributes, event.data
    assert attributes["specversion"] == "1.0"
    assert uuid.UUID(attributes["id"]).version == 5
    assert attributes["type"].startswith("org.metagov.")
    assert isinstance(attributes["time"], datetime) and attributes["time"].tzinfo is not None
    assert attributes["datacontenttype"] == "application/json"
    assert attributes["dataschema"].startswith("https://metagov.org/schemas/")
    assert TRACEPARENT.fullmatch(attributes["traceparent"])

    community, plugin = attributes["community"], attributes["plugin"]
    source = f"/communities/{community}" + ("" if plugin == "core" else f"/plugins/{plugin}")
    assert attributes["source"] == source
    family = event.type.split(".")[0]
    if family == "process":
        assert attributes["subject"] == data["id"]
        assert attributes["sequence"] == data["version"]
        assert data["community"] == community
    else:
        assert "sequence" not in attributes
    if family == "action":
        assert attributes["subject"] == f"{plugin}.{data['action']}"


def check_data(event: Event) -> None:
    needed, allowed = MEMBERS[event.type]
    members = set(event.data)
    assert needed <= members <= needed | allowed, f"{event.type}: {sorted(members)}"
    if event.type in STATUS:
        assert event.data["status"] == STATUS[event.type]
        assert ("closed_at" in event.data) == (event.data["status"] in ("completed", "failed"))
    if problem := event.data.get("problem"):
        # RFC 9457
        assert {"type", "title", "status", "detail"} <= set(problem) <= {"type", "title", "status", "detail", "errors"}
        assert problem["type"].startswith("https://metagov.org/problems/")
        assert all(set(error) == {"pointer", "keyword", "message"} for error in problem.get("errors", []))


def expected_routing_key(event: Event) -> str:
    """The routing key that the contract's table has for this type."""
    family, what = event.type.split(".", 1)
    middle = {
        "action": lambda: f"action.{event.data['action']}.{what}",
        "process": lambda: f"process.{event.data['name'].split('.')[1]}.{what}",
    }.get(family, lambda: event.type)
    return f"{event.attributes['community']}.{event.attributes['plugin']}.{middle()}"
