"""What docker-compose.yml describes, started without containers: the same commands with the same settings.

The services of its own images (RabbitMQ, PostgreSQL) are those of the tests; that the passwords on both sides of each URL are
the same is checked from the file.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from conftest import remove_topology
from service import STOPS_WITHIN, Database, needed

ROOT = Path(__file__).resolve().parents[2]
OURS = "metagov:local"


def interpolated(value: Any) -> Any:
    """Compose's own `${NAME:-default}` with nothing set, and `$$`."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace("$$", "$")
    if isinstance(value, list):
        return [interpolated(item) for item in value]
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    return value


COMPOSE = interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))["services"]
ROLES = {name: service for name, service in COMPOSE.items() if service["image"] == OURS}


class Stack:
    """The services of our image, each in the order of `depends_on`."""

    def __init__(self, folder: Path) -> None:
        self.database = Database("postgres", folder)
        self.prefix = f"compose-{uuid.uuid4().hex[:12]}"
        self.amqp_url = needed("METAGOV_TEST_AMQP_URL")
        self.plugins: list[str] = []
        self.running: list[tuple[str, subprocess.Popen[bytes], dict[str, str]]] = []
        self._folder = folder
        # The name that the image has for it.
        (folder / "bin").mkdir()
        (folder / "bin" / "metagov").symlink_to(needed("METAGOV_BIN"))

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        """The variables of the file, with addresses and paths of this machine."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("METAGOV_")}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        volume = service["volumes"][0].split(":")[1]
        own = {key: str(value).replace(volume, str(self._folder)) for key, value in service["environment"].items()}
        here = {
            "METAGOV__BROKER__URL": self.amqp_url,
            "METAGOV__DATABASE__URL": self.database.url,
            "METAGOV__HEALTH__ADDRESS": f"127.0.0.1:{port}",
        }
        assert set(here) <= set(own), "the file sets each of these"
        path = f"{self._folder / 'bin'}:{inherited['PATH']}"
        return inherited | own | here | {"METAGOV__BROKER__PREFIX": self.prefix, "PATH": path}

    def command(self, service: dict[str, Any]) -> list[str]:
        return [*service.get("entrypoint", ["metagov"]), *service["command"]]

    def start(self) -> None:
        left = dict(ROLES)
        while left:
            ready = [name for name, service in left.items() if not set(service.get("depends_on", {})) & set(left)]
            assert ready, f"{list(left)} wait for one another"
            for name in ready:
                self._start(name, left.pop(name))

    def _start(self, name: str, service: dict[str, Any]) -> None:
        for _ in range(service.get("deploy", {}).get("replicas", 1)):
            environment = self.environment(service)
            with (self._folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    self.command(service), cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            if service["restart"] == "no":
                assert process.wait(120) == 0, self.logs()
            else:
                self.running.append((name, process, environment))

    def until_healthy(self) -> None:
        """Each role's own health check, as often as it takes."""
        deadline = time.monotonic() + 60
        for name, process, environment in self.running:
            check = ROLES[name]["healthcheck"]["test"]
            port = environment["METAGOV__HEALTH__ADDRESS"].rpartition(":")[2]
            assert check[0] == "CMD"
            command = [part.replace("/9090", f"/{port}") for part in check[1:]]
            while subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode:
                assert process.poll() is None and time.monotonic() < deadline, self.logs()

    def run(self, *arguments: str) -> str:
        environment = self.environment(ROLES["worker"])
        done = subprocess.run(["metagov", *arguments], cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> list[int]:
        for _, process, _ in self.running:
            process.send_signal(signal.SIGTERM)
        return [process.wait(STOPS_WITHIN) for _, process, _ in self.running]

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in self._folder.glob("*.log"))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    try:
        stack.start()
        yield stack
    finally:
        for _, process, _ in stack.running:
            if process.poll() is None:
                process.kill()
                process.wait()
        remove_topology(stack)
        stack.database.drop()


def test_everything_in_it_starts_is_healthy_and_keeps_secrets(stack: Stack) -> None:
    stack.until_healthy()
    stack.plugins = [json.loads(line)["name"] for line in stack.run("plugins", "list", "--json").splitlines()]
    key = json.loads(stack.run("keys", "list", "--json"))
    assert key["use"] == "seals"
    enable = ["plugin", "enable", "example-plugin", "-c", "demo", "--create", "--config", "my_required_config=canary"]
    assert json.loads(stack.run(*enable, "--json"))["config"]["my_required_config"] == "********"
    assert json.loads(stack.run("keys", "list", "--json")) == key | {"instances": 1}
    assert stack.stop() == [0] * len(stack.running), stack.logs()


def test_both_sides_of_each_url_have_the_same_user_and_password() -> None:
    for role, service in ROLES.items():
        settings = service["environment"]
        broker, database = urlsplit(settings["METAGOV__BROKER__URL"]), urlsplit(settings["METAGOV__DATABASE__URL"])
        rabbitmq, postgres = COMPOSE[broker.hostname]["environment"], COMPOSE[database.hostname]["environment"]
        assert (broker.username, broker.password) == (rabbitmq["RABBITMQ_DEFAULT_USER"], rabbitmq["RABBITMQ_DEFAULT_PASS"]), role
        assert (database.username, database.password) == (postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"]), role
        assert database.path == f"/{postgres['POSTGRES_DB']}", role
