"""A served community for each story, on each database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pika
import pytest

from driver import Driver
from service import Database, Service
from topology import exchanges, queues

CONFIG = {"default_low": 1, "default_high": 7}


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker and a scheduler, ended by SIGTERM when all stories on this database are told."""
    folder = tmp_path_factory.mktemp(request.param)
    database = Database(request.param, folder)
    try:
        service = Service(database, folder)
        try:
            service.start()
            yield service
        finally:
            codes = service.stop()
            logs = service.logs()
            remove_topology(service)
    finally:
        database.drop()
    assert codes == {"worker": 0, "scheduler": 0}, f"exit codes after SIGTERM: {codes}\n{logs}"


@pytest.fixture
def driver(service: Service) -> Iterator[Driver]:
    driver = Driver(service.amqp_url, service.prefix, service.check_alive, service.logs)
    yield driver
    driver.close()


@pytest.fixture
def community(driver: Driver) -> str:
    """A community of the story's own in which `randomness` is enabled."""
    slug = f"story-{uuid.uuid4().hex[:12]}"
    applied = driver.send("community.apply", {"slug": slug, "readable_name": "A story's community"})
    assert driver.event_of(applied, "community.applied").data == {
        "slug": slug,
        "readable_name": "A story's community",
        "plugins": [],
    }
    enabled = driver.send("plugin.randomness.enable", {"community": slug, "config": CONFIG})
    assert driver.event_of(enabled, "plugin.enabled").data["config"] == CONFIG
    return slug


def remove_topology(service: Service) -> None:
    """Takes everything of this prefix off a broker that is not ours alone."""
    with pika.BlockingConnection(pika.URLParameters(service.amqp_url)) as connection:
        channel = connection.channel()
        for queue in queues(service.prefix, service.plugins):
            channel.queue_delete(queue)
        for exchange in exchanges(service.prefix):
            channel.exchange_delete(exchange)
