"""A driver as its author would write it: pika for AMQP 0-9-1, the official CloudEvents SDK for the events.

It publishes commands as section 2 of the wire contract says and keeps every event of the service, each of them
checked by events.py when it comes. It knows nothing of the service's insides. Up: the stories in test_driver.py.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from events import Event, read_event

PATIENCE = 30  # seconds; how long a story waits for an event that must come
DIRECT_REPLY = "amq.rabbitmq.reply-to"


@dataclass(frozen=True)
class Sent:
    """A command that the broker has taken."""

    message_id: str | None
    correlation_id: str | None
    trace_id: str


class Driver:
    """One connection, one channel, a queue for all events and one for replies."""

    def __init__(self, amqp_url: str, prefix: str, check_service: Callable[[], None], logs: Callable[[], str]) -> None:
        self.events: list[Event] = []
        self.replies: list[Event] = []
        self.prefix = prefix
        self._check_service, self._logs = check_service, logs
        self._connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        self.channel: BlockingChannel = self._connection.channel()
        self.channel.confirm_delivery()
        self.event_queue = self._queue("events")
        self.channel.queue_bind(self.event_queue, f"{prefix}.events", "#")
        self.channel.basic_consume(self.event_queue, self._on_event, auto_ack=True)
        # As every tutorial of RPC makes it: the broker finds the name, `amq.gen-…`.
        self.reply_queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.reply_queue, self._on_reply, auto_ack=True)
        self.channel.basic_consume(DIRECT_REPLY, self._on_reply, auto_ack=True)

    def close(self) -> None:
        self._connection.close()

    def send(
        self,
        routing_key: str,
        body: dict[str, Any] | bytes,
        *,
        message_id: str | None = "",
        correlation_id: str | None = None,
        reply_to: str | None = None,
    ) -> Sent:
        """Publishes a command and waits for the broker's confirm. Without a `message_id` a fresh one; None: none."""
        if message_id == "":
            message_id = str(uuid.uuid4())
        trace_id = uuid.uuid4().hex
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent.value,
            message_id=message_id,
            correlation_id=correlation_id,
            reply_to=reply_to,
            timestamp=int(time.time()),
            headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
        )
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        # Raises where the broker refuses it; `mandatory` is moot, for what no queue wants is answered too.
        self.channel.basic_publish(f"{self.prefix}.commands", routing_key, payload, properties)
        return Sent(message_id, correlation_id, trace_id)

    def event_of(self, sent: Sent, event_type: str) -> Event:
        """The event of this type that this command has caused."""
        assert sent.message_id, "an event is found by the message_id of its command"
        return self.wait_for(
            f"{event_type} of {sent.message_id}",
            lambda: (e for e in self.events if e.type == event_type and e.causation_id == sent.message_id),
        )

    def reply_to(self, sent: Sent) -> Event:
        """The reply that carries this command's correlation id."""
        wanted = sent.correlation_id or sent.message_id
        return self.wait_for(
            f"reply to {wanted}", lambda: (e for e in self.replies if e.properties.correlation_id == wanted)
        )

    def events_of_process(self, process_id: str) -> list[Event]:
        return [event for event in self.events if event.attributes.get("subject") == process_id]

    def wait_for(self, what: str, find: Callable[[], Iterator[Event]]) -> Event:
        """Handles what comes until `find` has something; the broker's traffic wakes it, nothing is slept."""
        deadline = time.monotonic() + PATIENCE
        while (found := next(find(), None)) is None:
            self._check_service()
            left = deadline - time.monotonic()
            if left <= 0:
                came = "\n".join(f"  {e.routing_key} {json.dumps(e.data)[:300]}" for e in self.events[-20:])
                raise AssertionError(f"no {what} within {PATIENCE} s; what came last:\n{came}\n{self._logs()}")
            self._connection.process_data_events(time_limit=min(left, 1))
        return found

    def _queue(self, what: str) -> str:
        """A queue with a name of our own."""
        name = f"driver-{uuid.uuid4()}.{what}"
        self.channel.queue_declare(name, exclusive=True)
        return name

    def _on_event(self, _channel, method, properties, body) -> None:
        self.events.append(read_event(method.routing_key, properties, body))

    def _on_reply(self, _channel, _method, properties, body) -> None:
        self.replies.append(read_event(None, properties, body))
