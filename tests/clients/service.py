"""The service under test: the real binary, as an operator runs it.

One worker and one scheduler on a database and a broker prefix of their own, so that any number of test runs share one
broker and one PostgreSQL server. Up: conftest.py. Down: `metagov migrate|topology|worker|scheduler`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

STOPS_WITHIN = 30  # seconds; the worker's own limit for draining is 25


def needed(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"{name} is not set: run these tests by tests/run --only clients")
    return value


class Database:
    """A database of one's own on the PostgreSQL server of the tests, or a SQLite file."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.name = f"clients_{uuid.uuid4().hex}"
        self._server = None
        if kind == "sqlite":
            self.url = f"sqlite:{folder / 'metagov.db'}"
        else:
            self._server = needed("METAGOV_TEST_DATABASE_URL")
            base, _, options = self._server.partition("?")
            self.url = base.rpartition("/")[0] + f"/{self.name}" + (f"?{options}" if options else "")
            self._psql(f"create database {self.name}")

    def drop(self) -> None:
        if self._server:
            self._psql(f"drop database {self.name} with (force)")

    def _psql(self, statement: str) -> None:
        if not shutil.which("psql"):
            raise RuntimeError("psql is not installed: it comes with PostgreSQL's client (postgresql-client)")
        command = ["psql", self._server, "--no-psqlrc", "--quiet", "--command", statement]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


class Service:
    """Starts what a driver needs to be served, and ends it in order."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.amqp_url = needed("METAGOV_TEST_AMQP_URL")
        self.prefix = f"clients-{uuid.uuid4().hex[:12]}"
        self.plugins: list[str] = []
        self._binary = needed("METAGOV_BIN")
        self._folder = folder
        self._roles: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("METAGOV_")} | {
            "METAGOV__BROKER__URL": self.amqp_url,
            "METAGOV__BROKER__PREFIX": self.prefix,
            "METAGOV__DATABASE__URL": database.url,
            "METAGOV__DATA_DIR": str(folder),
            "METAGOV__LOG__FORMAT": "json",
            "METAGOV__LOG__FILTER": "info,metagov=debug",
        }

    def start(self) -> None:
        listed = self.run("plugins", "list", "--json").splitlines()
        self.plugins = [json.loads(plugin)["name"] for plugin in listed]
        self.run("migrate")
        # So that a driver can subscribe and publish before the first worker is up.
        self.run("topology", "apply")
        for role in ("worker", "scheduler"):
            with self._log(role).open("ab") as log:
                self._roles[role] = subprocess.Popen(
                    [self._binary, role],
                    cwd=self._folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def run(self, *arguments: str) -> str:
        """A command that ends by itself, and well; returns what it says on stdout."""
        done = subprocess.run(
            [self._binary, *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"metagov {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout

    def stop(self) -> dict[str, int]:
        """SIGTERM to all roles; returns their exit codes."""
        roles, self._roles = self._roles, {}
        for process in roles.values():
            process.send_signal(signal.SIGTERM)
        codes = {}
        for role, process in roles.items():
            try:
                codes[role] = process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[role] = process.wait()
        return codes

    def check_alive(self) -> None:
        for role, process in self._roles.items():
            assert process.poll() is None, f"metagov {role} ended with {process.returncode}\n{self.logs()}"

    def logs(self) -> str:
        """The end of what the roles have logged, for the message of a failed test."""
        return "\n".join(
            f"--- metagov {log.stem}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            for log in sorted(self._folder.glob("*.log"))
        )

    def log_lines(self, role: str) -> list[dict[str, Any]]:
        """Every line that a role has logged so far."""
        whole, _, _ = self._log(role).read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def _log(self, role: str) -> Path:
        return self._folder / f"{role}.log"
