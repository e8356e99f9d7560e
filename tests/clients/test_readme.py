"""The README's Python, word for word but for the broker's address, the prefix and the queue."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from pathlib import Path

import pika

from service import Service

README = Path(__file__).resolve().parents[2] / "README.md"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text())
    missing = [link for link in links if "://" not in link and not (README.parent / link).exists()]
    assert links and not missing, missing


def test_the_driver_of_the_readme_hears_its_outcome(service: Service) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    queue = f"my-driver-{uuid.uuid4().hex}"
    for written, ours in [
        ("amqp://metagov:metagov@localhost:5672/%2f", service.amqp_url),
        ('"metagov.', f'"{service.prefix}.'),
        ('"my-driver"', f'"{queue}"'),
    ]:
        assert written in program, f"the README's program does not say {written}"
        program = program.replace(written, ours)
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "org.metagov.community.applied" in done.stdout
        assert "org.metagov.action.completed" in done.stdout.splitlines()[-1]
    finally:
        with pika.BlockingConnection(pika.URLParameters(service.amqp_url)) as connection:
            connection.channel().queue_delete(queue)
