"""The page of app.py in a process of its own, and visitors who speak its protocol in plain HTTP."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from conftest import ROOT

SETTINGS = [0.5, 0.35, "Overlay"]  # threshold, opacity, view
API = "/gradio_api"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass
class RunningPage:
    """The page's process.

    Attributes:
        address: Without a slash at the end.
        temporary: Folder in which the process makes its temporary files.
        log: What it writes to standard error.
    """

    address: str
    process: subprocess.Popen
    temporary: Path
    log: Path

    def megabytes(self) -> float:
        """Memory of the process and of those that it started."""
        total = 0
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20

    def own_megabytes(self) -> float:
        """Memory of the process alone, without those that decode images at this moment."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def files(self) -> list[Path]:
        """What lies in its temporary folder, the examples and sockets of Python's own aside."""
        return [
            path
            for path in self.temporary.rglob("*")
            if path.is_file() and not path.name.startswith("synthetic") and "pymp" not in str(path)
        ]


@contextmanager
def running_page(checkpoint: Path, folder: Path, *flags: str) -> Iterator[RunningPage]:
    """`python app.py` with this model on a free port of this machine; it is ended if it still runs."""
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--model", str(checkpoint), "--port", str(port), *flags]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--dtype", "float32"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.search(rf" is on http://\S+:{port}/", line), line + log.read_text()
        try:
            yield RunningPage(f"http://127.0.0.1:{port}", process, temporary, log)
        finally:
            process.kill()


@dataclass
class Visitor:
    """A visitor of the page."""

    page: str
    session: str = field(default_factory=lambda: secrets.token_hex(6))
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(self.page + path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.client.post(self.page + path, **options)

    def upload(self, content: bytes, name: str = "frame.png") -> str:
        """Upload a file; returns its path on the server."""
        answer = self.post(f"{API}/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def event(self, name: str, data: list[Any]) -> dict[str, Any]:
        """What the page's script sends for an event that has this API name."""
        functions = self.get("/config").json()["dependencies"]
        number = next(function["id"] for function in functions if function["api_name"] == name)
        return {"data": data, "fn_index": number, "session_hash": self.session}

    def call(self, name: str, data: list[Any]) -> list[Any]:
        """Join the queue with an event and wait for its answer.

        Raises:
            RuntimeError: If the event is refused or fails.
        """
        joined = self.post(f"{API}/queue/join", json=self.event(name, data))
        if joined.status_code != 200:
            raise RuntimeError(f"{joined.status_code}: {joined.text}")
        return self.answer(joined.json()["event_id"])

    def answer(self, event: str) -> list[Any]:
        """Wait for the answer to an event that was sent, and then for the end of the stream: gradio takes a visitor
        who breaks it off for one who left, and drops what that one asks next."""
        output = None
        asked = f"{self.page}{API}/queue/data?session_hash={self.session}"
        # gradio may end the stream with an error of its own after a failed event.
        with suppress(httpx.RemoteProtocolError), self.client.stream("GET", asked) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed" and message["event_id"] == event:
                    output = message["output"] | {"success": message["success"]}
        if output is None or not output["success"]:
            raise RuntimeError(f"No answer: {output}")
        return output["data"]

    def segment(self, content: bytes, name: str = "frame.png") -> str:
        """Upload an image and segment it; returns the HTML that is shown."""
        return self.call("segment", [file_data(self.upload(content, name)), *SETTINGS])[1]


def file_data(path: str) -> dict[str, Any]:
    """How the page's script describes an upload."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def wait_until(condition: Any, seconds: float) -> bool:
    """Whether a condition becomes true in this time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
