"""The gate of the page: which requests reach gradio, from where, how large, how slow and how many at once.

gradio answers many requests that this page never makes: they fetch addresses, write files outside of the folder of
uploads, share one visitor's state, or keep whatever is sent in memory. What is not listed here is refused.
"""

import asyncio
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..common.errors import UserError
from .jobs import Jobs, RefusedError
from .uploads import MAX_FILE_MEBIBYTES, uploaded_path

API = "/gradio_api"
# What browsers and gradio's Python client ask for. `{session}` is the visitor's.
READ = re.compile(
    rf"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(?:assets|static|svelte)/.+"
    rf"|{API}/(?:info|startup-events|theme\.css|upload_progress|queue/data|heartbeat/(?P<session>[^/]+)|file=(?P<file>.+))"
)
WRITE = (f"{API}/upload", f"{API}/queue/join", f"{API}/cancel")
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")

MAX_JSON_BYTES = 2**16  # an event of this page has some 500
MAX_UPLOAD_BYTES = (MAX_FILE_MEBIBYTES + 1) * 2**20  # one file and what frames it
STALL_SECONDS = 10.0  # without a byte of a body
BODY_SECONDS = 600.0  # for all of a body: 100 MiB at 1.4 Mbit/s
MAX_RANGES = 8  # parts of a file that one request may ask for
MAX_OPEN = 300  # requests of one address at a time; a visitor's page keeps two
MAX_UPLOADS = 40  # of these; each takes MAX_UPLOAD_BYTES of the disk


class Gate:
    """ASGI middleware around gradio.

    Args:
        app: What answers the requests that pass.
        jobs: The visitors' waiting jobs.
        folder: The folder of all uploads and results.
        host: Address that the server listens on.
    """

    def __init__(self, app: ASGIApp, jobs: Jobs, folder: Path, host: str):
        self.app = app
        self.jobs = jobs
        self.folder = folder
        self.is_space = is_space()
        self.names = own_names(host)
        self.open: Counter[str] = Counter()  # requests, by address
        self.uploads: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket, which nothing here uses
            await send({"type": "websocket.close"})
            return
        address = scope["client"][0] if scope["client"] else ""
        send = closing(send)
        try:
            with self._counted(self.open, address, MAX_OPEN):
                await self._answer(scope, receive, send, address)
        except RefusedError as refusal:
            await JSONResponse({"detail": refusal.reason}, refusal.status)(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is there to be answered

    @contextmanager
    def _counted(self, requests: Counter[str], address: str, most: int) -> Iterator[None]:
        """Count a request of an address.

        Raises:
            RefusedError: If it has `most` already. Not in a Space, whose visitors come by a few proxies.
        """
        if requests[address] >= most and not self.is_space:
            raise RefusedError(429, "Too many requests at once from this address. Close some pages.")
        requests[address] += 1
        try:
            yield
        finally:
            requests[address] -= 1
            if not requests[address]:
                del requests[address]

    async def _answer(self, scope: Scope, receive: Receive, send: Send, address: str) -> None:
        """Check a request and pass it on.

        Raises:
            RefusedError: If it is refused before anything was sent.
        """
        headers = Headers(scope=scope)
        self._check_source(headers)
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            self._check_reading(path)
            if headers.get("range", "").count(",") >= MAX_RANGES:
                raise RefusedError(416, f"At most {MAX_RANGES} parts of a file are sent at once.")
            if path == f"{API}/queue/data":
                with self.jobs.listening(session_of(scope["query_string"])):
                    await self.app(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        elif method == "POST" and path == f"{API}/upload":
            with self._counted(self.uploads, address, MAX_UPLOADS):
                await self.app(scope, bounded(receive, headers, MAX_UPLOAD_BYTES), send)
        elif method == "POST" and path in WRITE:
            body = await read_body(bounded(receive, headers, MAX_JSON_BYTES))
            session = self._check_event(body)
            if path == f"{API}/queue/join":
                self.jobs.check_room(session, address if not self.is_space else None)
            await self.app(scope, repeating(body, receive), send)
            self.jobs.take_turns()
        else:
            raise RefusedError(404, "There is no such page.")

    def _check_source(self, headers: Headers) -> None:
        """Refuse other sites' pages: by their origin, or by the name that they gave this machine (DNS rebinding)."""
        host = headers.get("host", "")
        if not self.is_space and not is_own(host, self.names):
            raise RefusedError(421, "This page is not served under that name. Open it by the machine's address.")
        origin = headers.get("origin")
        if origin is None:
            return
        # Other sites cannot send X-Forwarded-Host; proxies with a name of their own do.
        accepted = {host, headers.get("x-forwarded-host") or host, os.environ.get("SPACE_HOST", host)}
        if urlsplit(origin).netloc not in accepted:
            raise RefusedError(403, "Pages of other sites may not use this one.")

    def _check_reading(self, path: str) -> None:
        match = READ.fullmatch(path)
        if not match:
            raise RefusedError(404, "There is no such page.")
        if match["file"]:
            self._check_file(match["file"])
        if match["session"]:
            check_session(match["session"])

    def _check_event(self, body: bytes) -> str:
        """The visitor of an event; all files that it names must be uploads, or gradio would fetch or copy them."""
        try:
            event = json.loads(body)
            session, function = event["session_hash"], event["fn_index"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError(400, "Expected an event in JSON with fn_index and session_hash.") from error
        check_session(session)
        if not self.jobs.is_function(function):
            raise RefusedError(400, "Expected fn_index: the number of one of the page's functions.")
        for file in files_of(event):
            self._check_file(file)
        return session

    def _check_file(self, path: Any) -> None:
        try:
            uploaded_path({"path": path}, self.folder)
        except UserError as error:
            raise RefusedError(403, str(error)) from error


def check_session(session: Any) -> None:
    """Refuse a visitor without a name: all such would share one."""
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        raise RefusedError(400, "Expected session_hash: 1 to 64 letters and digits that the visitor chose.")


def session_of(query: bytes) -> str:
    """The visitor that a query names; refused unless it is one."""
    sessions = parse_qs(query.decode(errors="replace"), keep_blank_values=True).get("session_hash", [])
    session = sessions[0] if len(sessions) == 1 else None
    check_session(session)
    return str(session)


def files_of(event: Any) -> list[Any]:
    """The values of "path" in an event, however deep."""
    waiting, found = [event], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            found += [value["path"]] if "path" in value else []
            waiting += value.values()
    return found


def is_space() -> bool:
    """Whether this runs as a Space, whose proxy stands between it and all visitors."""
    return "SPACE_ID" in os.environ


def own_names(host: str) -> frozenset[str]:
    """The names of this machine under which its page may be opened."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", host.lower(), name, f"{name}.local", socket.getfqdn().lower()})


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header names this machine: another site can give it any name, but no address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def bounded(receive: Receive, headers: Headers, most_bytes: int) -> Receive:
    """`receive` of a request, which refuses a body that is too large, stalls or takes too long."""
    stated = headers.get("content-length", "0")
    too_large = RefusedError(413, f"The request is too large: at most {most_bytes / 2**20:g} MiB are taken.")
    if not stated.isdecimal() or int(stated) > most_bytes:
        raise too_large
    got = 0
    end = asyncio.get_running_loop().time() + BODY_SECONDS

    async def receive_bounded() -> Message:
        nonlocal got
        seconds = min(STALL_SECONDS, end - asyncio.get_running_loop().time())
        try:
            message = await asyncio.wait_for(receive(), max(seconds, 0))
        except asyncio.TimeoutError as error:
            raise RefusedError(408, "The request takes too long. Send it again.") from error
        got += len(message.get("body", b""))
        if got > most_bytes:
            raise too_large
        return message

    return receive_bounded


def closing(send: Send) -> Send:
    """`send` that ends the connection after an error: uvicorn would go on to receive a body that nobody reads."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        await send(message)

    return send_and_close


async def read_body(receive: Receive) -> bytes:
    """All of a request's body."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "The request was broken off.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def repeating(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
