"""What a driver in another language sees: every command and every event of the wire contract that needs no platform.

Each story is told on SQLite and on PostgreSQL against the real binary. The attributes, properties and routing keys of
every event are checked in events.py, whichever story receives it.
"""

from __future__ import annotations

import uuid

import pytest

from driver import DIRECT_REPLY, Driver, Sent
from events import Event
from service import Service
from topology import exchanges, queues

RANDOM_INT = "action.randomness.random-int"
VOTE = "process.randomness.delayed-stochastic-vote"
INITIATOR = {"user_id": "U024BE7LH", "provider": "slack"}
OPTIONS = ["tea", "coffee", "water"]


def kind_of(event: Event) -> str:
    assert event.type == "command.rejected"
    return event.data["problem"]["type"].removeprefix("https://metagov.org/problems/")


def start_vote(driver: Driver, community: str, delay: int, **more) -> tuple[Sent, str]:
    process_id = str(uuid.uuid4())
    parameters = {"options": OPTIONS, "delay": delay}
    body = {"community": community, "parameters": parameters, "initiator": INITIATOR, "process_id": process_id}
    return driver.send(f"{VOTE}.start", body, **more), process_id


def completed(driver: Driver, process_id: str) -> Event:
    return driver.wait_for(
        f"process.completed of {process_id}",
        lambda: (event for event in driver.events_of_process(process_id) if event.type == "process.completed"),
    )


def test_exchanges_and_queues_have_the_names_of_the_contract(driver: Driver, service: Service) -> None:
    assert {"example-plugin", "randomness"} <= set(service.plugins)
    for exchange in exchanges(driver.prefix):
        driver.channel.exchange_declare(exchange, passive=True)
    for queue in queues(driver.prefix, service.plugins):
        driver.channel.queue_declare(queue, passive=True)


def test_an_action_is_answered_with_its_outcome(driver: Driver, community: str) -> None:
    parameters = {"low": 40, "high": 50}
    sent = driver.send(
        RANDOM_INT,
        {"community": community, "parameters": parameters, "initiator": INITIATOR},
        correlation_id="vote 17",
    )
    event = driver.event_of(sent, "action.completed")
    assert event.data["action"] == "random-int"
    assert event.data["output"]["value"] in range(40, 50)
    assert event.data["initiator"] == INITIATOR
    assert event.data["attempts"] == 1
    assert event.attributes["correlationid"] == "vote 17"
    assert event.attributes["traceparent"].split("-")[1] == sent.trace_id


def test_without_a_correlation_id_the_message_id_stands_in(driver: Driver, community: str) -> None:
    sent = driver.send(RANDOM_INT, {"community": community, "parameters": {}})
    event = driver.event_of(sent, "action.completed")
    assert event.attributes["correlationid"] == sent.message_id
    assert event.data["output"]["value"] in range(1, 7), "the bounds of the config"
    assert "initiator" not in event.data


@pytest.mark.parametrize("where", ["direct", "queue"])
def test_a_reply_is_the_published_event(driver: Driver, community: str, where: str) -> None:
    reply_to = DIRECT_REPLY if where == "direct" else driver.reply_queue
    sent = driver.send(
        RANDOM_INT, {"community": community, "parameters": {}}, correlation_id=f"call-{where}", reply_to=reply_to
    )
    reply, published = driver.reply_to(sent), driver.event_of(sent, "action.completed")
    assert (reply.id, reply.body) == (published.id, published.body)


def test_a_start_is_answered_by_process_started(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=600, reply_to=DIRECT_REPLY)
    reply = driver.reply_to(sent)
    assert (reply.type, reply.data["id"]) == ("process.started", process_id)


def test_a_rejection_is_a_reply_too(driver: Driver) -> None:
    body = {"community": "nobody-lives-here", "parameters": {}}
    sent = driver.send(RANDOM_INT, body, reply_to=driver.reply_queue)
    assert kind_of(driver.reply_to(sent)) == "unknown-community"


@pytest.mark.parametrize("queue", ["amq.topic", "{prefix}.core"])
def test_a_reply_queue_must_be_the_drivers_own(driver: Driver, community: str, queue: str) -> None:
    body = {"community": community, "parameters": {}}
    sent = driver.send(RANDOM_INT, body, reply_to=queue.format(prefix=driver.prefix))
    assert kind_of(driver.event_of(sent, "command.rejected")) == "invalid-reply-to"


def test_a_reply_queue_that_is_gone_does_no_harm(driver: Driver, community: str) -> None:
    body = {"community": community, "parameters": {}}
    sent = driver.send(RANDOM_INT, body, reply_to=f"gone-{uuid.uuid4()}")
    driver.event_of(sent, "action.completed")


def test_a_vote_without_delay_is_closed_by_the_scheduler(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=0)
    started, ended = driver.event_of(sent, "process.started"), completed(driver, process_id)
    assert started.data["name"] == "randomness.delayed-stochastic-vote"
    assert started.data["parameters"] == {"options": OPTIONS, "delay": 0}
    assert started.data["initiator"] == INITIATOR
    assert started.data["outcome"] is None
    assert ended.data["outcome"]["winner"] in OPTIONS
    assert ended.data["closed_at"] >= started.data["created_at"]
    assert ended.causation_id != sent.message_id, "the scheduler's command has ended it"
    sequence = [event.attributes["sequence"] for event in driver.events_of_process(process_id)]
    assert sequence == sorted(set(sequence)), "events of one process come in order"


def test_a_vote_with_a_long_delay_is_closed_early(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=60 * 24)
    started = driver.event_of(sent, "process.started")
    assert started.data["closes_at"] > started.data["created_at"]

    closing = driver.send(f"{VOTE}.close", {"community": community, "process_id": process_id})
    ended = driver.event_of(closing, "process.completed")
    assert ended.data["id"] == process_id
    assert ended.data["outcome"]["winner"] in OPTIONS
    assert ended.attributes["sequence"] > started.attributes["sequence"]

    again = driver.send(f"{VOTE}.close", {"community": community, "process_id": process_id})
    assert kind_of(driver.event_of(again, "command.rejected")) == "already-completed"


def test_a_process_of_another_community_is_out_of_reach(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=600)
    driver.event_of(sent, "process.started")
    other = f"other-{uuid.uuid4().hex[:12]}"
    applied = driver.send("community.apply", {"slug": other})
    driver.event_of(applied, "community.applied")
    closing = driver.send(f"{VOTE}.close", {"community": other, "process_id": process_id})
    assert kind_of(driver.event_of(closing, "command.rejected")) == "not-found"


@pytest.mark.parametrize("what", ["action", "process"])
def test_a_repeated_command_has_the_same_event_and_no_second_effect(driver: Driver, community: str, what: str) -> None:
    key, body, event_type = {
        "action": (RANDOM_INT, {"community": community, "parameters": {"low": 0, "high": 1 << 40}}, "action.completed"),
        "process": (
            f"{VOTE}.start",
            {"community": community, "parameters": {"options": OPTIONS, "delay": 600}},
            "process.started",
        ),
    }[what]
    sent = driver.send(key, body)
    first = driver.event_of(sent, event_type)
    driver.send(key, body, message_id=sent.message_id, reply_to=driver.reply_queue)
    reply = driver.reply_to(sent)
    assert (reply.id, reply.body) == (first.id, first.body), "one message_id, one outcome"
    copies = [event for event in driver.events if event.causation_id == sent.message_id]
    assert {event.id for event in copies} == {first.id}


def test_a_message_id_with_another_body_is_a_conflict(driver: Driver, community: str) -> None:
    sent = driver.send(RANDOM_INT, {"community": community, "parameters": {"low": 0, "high": 10}})
    first = driver.event_of(sent, "action.completed")
    other = {"community": community, "parameters": {"low": 10, "high": 20}}
    driver.send(RANDOM_INT, other, message_id=sent.message_id)
    refused = driver.event_of(sent, "command.rejected")
    assert kind_of(refused) == "conflict"
    assert refused.id != first.id


def test_a_command_without_a_message_id_is_handled(driver: Driver, community: str) -> None:
    body = {"community": community, "parameters": {}}
    sent = driver.send(RANDOM_INT, body, message_id=None, correlation_id="no key", reply_to=driver.reply_queue)
    assert driver.reply_to(sent).type == "action.completed"


VALID = {"community": "{community}", "parameters": {}}
REFUSED = {
    "not JSON": (RANDOM_INT, b"hello", "invalid-json"),
    "a repeated member": (RANDOM_INT, b'{"community": "a", "community": "b", "parameters": {}}', "invalid-json"),
    "nested very deeply": (RANDOM_INT, b"[" * 100_000 + b"]" * 100_000, "invalid-json"),
    "an unknown member": (RANDOM_INT, VALID | {"surprise": 1}, "invalid-command"),
    "an unknown routing key": ("make.coffee", VALID, "unknown-command"),
    "an unknown plugin": ("action.randomnes.random-int", VALID, "unknown-plugin"),
    "an unknown action": ("action.randomness.random-in", VALID, "unknown-action"),
    "an unknown process": ("process.randomness.delayed-vote.start", VALID, "unknown-process"),
    "an unknown community": (RANDOM_INT, VALID | {"community": "nobody-lives-here"}, "unknown-community"),
    "a slug of 300 characters": (RANDOM_INT, VALID | {"community": "x" * 300}, "invalid-command"),
    "a plugin that is not enabled": (
        "action.example-plugin.my-action",
        VALID | {"parameters": {"text": "hello"}},
        "plugin-not-enabled",
    ),
    "an unknown parameter": (RANDOM_INT, VALID | {"parameters": {"lo": 1}}, "invalid-parameters"),
    "a parameter of another type": (RANDOM_INT, VALID | {"parameters": {"low": "1"}}, "invalid-parameters"),
    "a missing parameter": (f"{VOTE}.start", VALID, "invalid-parameters"),
    "a config that breaks its schema": (
        "plugin.randomness.enable",
        {"community": "{community}", "config": {"default_low": 1}},
        "invalid-config",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_command_is_answered(driver: Driver, community: str, what: str) -> None:
    key, body, kind = REFUSED[what]
    if isinstance(body, dict) and body.get("community") == "{community}":
        body = body | {"community": community}
    sent = driver.send(key, body)
    event = driver.event_of(sent, "command.rejected")
    assert event.data["routing_key"] == key
    assert kind_of(event) == kind


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("action.randomnes.random-int", "randomness"), ("action.randomness.random-in", "random-int")],
)
def test_a_rejection_suggests_the_nearest_name(driver: Driver, community: str, key: str, nearest: str) -> None:
    sent = driver.send(key, {"community": community, "parameters": {}})
    assert nearest in driver.event_of(sent, "command.rejected").data["problem"]["detail"]


def test_a_body_over_the_limit_is_refused(driver: Driver, community: str) -> None:
    body = {"community": community, "parameters": {}, "initiator": INITIATOR | {"pad": "x" * (1 << 20)}}
    sent = driver.send(RANDOM_INT, body)
    assert kind_of(driver.event_of(sent, "command.rejected")) == "too-large"


def test_a_config_change_keeps_open_processes(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=600)
    driver.event_of(sent, "process.started")
    config = {"default_low": 100, "default_high": 101}
    changed = driver.send("plugin.randomness.enable", {"community": community, "config": config})
    assert driver.event_of(changed, "plugin.updated").data["config"] == config
    drawn = driver.send(RANDOM_INT, {"community": community, "parameters": {}})
    assert driver.event_of(drawn, "action.completed").data["output"] == {"value": 100}
    closing = driver.send(f"{VOTE}.close", {"community": community, "process_id": process_id})
    driver.event_of(closing, "process.completed")


def test_a_disabled_plugin_leaves_no_open_process(driver: Driver, community: str) -> None:
    sent, process_id = start_vote(driver, community, delay=600)
    driver.event_of(sent, "process.started")
    disabled = driver.send("plugin.randomness.disable", {"community": community})
    driver.event_of(disabled, "plugin.disabled")
    failed = driver.event_of(disabled, "process.failed")
    assert failed.data["id"] == process_id
    assert failed.data["problem"]["type"] == "https://metagov.org/problems/plugin-disabled"
    after = driver.send(RANDOM_INT, {"community": community, "parameters": {}})
    assert kind_of(driver.event_of(after, "command.rejected")) == "plugin-not-enabled"


def test_apply_makes_the_set_of_plugins_exactly_so(driver: Driver) -> None:
    slug = f"exactly-{uuid.uuid4().hex[:12]}"
    plugin = {"name": "randomness", "config": {"default_low": 1, "default_high": 2}}
    applied = driver.send("community.apply", {"slug": slug, "plugins": [plugin]})
    assert [each["name"] for each in driver.event_of(applied, "community.applied").data["plugins"]] == ["randomness"]
    driver.event_of(applied, "plugin.enabled")
    emptied = driver.send("community.apply", {"slug": slug, "plugins": []})
    assert driver.event_of(emptied, "community.applied").data["plugins"] == []
    driver.event_of(emptied, "plugin.disabled")


def test_a_deleted_community_is_unknown(driver: Driver, community: str) -> None:
    deleted = driver.send("community.delete", {"slug": community})
    assert driver.event_of(deleted, "community.deleted").data["slug"] == community
    driver.event_of(deleted, "plugin.disabled")
    after = driver.send(RANDOM_INT, {"community": community, "parameters": {}})
    assert kind_of(driver.event_of(after, "command.rejected")) == "unknown-community"


def test_a_command_is_one_line_in_the_log(driver: Driver, community: str, service: Service) -> None:
    secret = "hunter2-in-the-parameters"
    failing = driver.send(RANDOM_INT, {"community": community, "parameters": {"low": secret}})
    fine = driver.send(RANDOM_INT, {"community": community, "parameters": {}})

    def ends(sent: Sent) -> list[dict]:
        lines = (line for line in service.log_lines("worker") if line.get("span", {}).get("message.id") == sent.message_id)
        return [line for line in lines if "elapsed_ms" in line["span"]]

    for sent, verdict in [(failing, "rejected"), (fine, "completed")]:
        [line] = driver.wait_for(f"the log of {verdict}", lambda sent=sent: (lines for lines in [ends(sent)] if lines))
        assert line["span"]["verdict"] == verdict
        assert (line["span"]["community"], line["span"]["plugin"]) == (community, "randomness")
        assert line["span"]["attempt"] == 1
    assert secret not in service.logs()
