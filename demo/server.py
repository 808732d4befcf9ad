"""Serves the page of page.py: receives uploads, lets requests through the gate, and leaves nothing behind.

with serving(page, folder, "127.0.0.1", 7860) as address:
    ...
"""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from gradio_client.utils import strip_invalid_filename_characters
from starlette.concurrency import run_in_threadpool
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..common.errors import UserError
from .cleaner import Cleaner
from .decoder import resource, warm_up
from .gate import API, Gate, is_space
from .jobs import Jobs
from .page import NAME_EXAMPLES, theme
from .render import stylesheet
from .uploads import cannot_be_kept

if TYPE_CHECKING:
    import gradio as gr

THREADS = 6  # two for images, one for videos, two for drawing, one for gradio; each may keep memory of its own
SESSIONS = 40  # visitors whose last answers gradio remembers, some 0.5 MB each; forgotten ones get a new session
MAX_CONNECTIONS = 2000  # each takes a file descriptor
MAX_CONNECTIONS_OF_ADDRESS = 400  # more than the requests that the gate takes of one address at a time
FILE_DESCRIPTORS = 4096  # for connections, uploads and queues
HEAD_SECONDS = 10.0  # for the first line and the headers of a request
STOP_SECONDS = 2.0  # for the server: requests have a second of these, and are broken off then


class PromptProtocol(H11Protocol):
    """HTTP that ends connections on which no complete request comes; uvicorn itself waits without end."""

    by_address: ClassVar[Counter[str]] = Counter()  # by address; those in a Space come by a few proxies

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = str((transport.get_extra_info("peername") or [""])[0])
        self.by_address[self.address] += 1
        most = MAX_CONNECTIONS if is_space() else MAX_CONNECTIONS_OF_ADDRESS
        if self.by_address[self.address] > most or self.by_address.total() > MAX_CONNECTIONS:
            transport.abort()
            return
        self.loop.call_later(HEAD_SECONDS, self._end_if_silent, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        self.by_address[self.address] -= 1
        if not self.by_address[self.address]:
            del self.by_address[self.address]
        super().connection_lost(exc)

    def _end_if_silent(self, earlier: Any) -> None:
        """End the connection if nothing was asked since it answered `earlier`, the cycle of `HEAD_SECONDS` ago."""
        if self.transport.is_closing():
            return
        if self.cycle is earlier and (earlier is None or earlier.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(HEAD_SECONDS, self._end_if_silent, self.cycle)


@contextmanager
def serving(page: "gr.Blocks", folder: Path, host: str, port: int) -> Iterator[str]:
    """Serve the page in threads; gives its address.

    Args:
        page: Of `build_page`.
        folder: The folder that was given to it, with nothing but its examples.
        host, port: Where to listen.

    Raises:
        UserError: If the address cannot be used.
    """
    host = host.strip("[]")  # of an IPv6 address in a URL
    listener = listen(host, port)
    allow_descriptors()
    threading.Thread(target=warm_up, daemon=True).start()
    cleaner = Cleaner(folder, keep=[path for path in folder.rglob("*") if path.is_file()])
    app = FastAPI(
        openapi_url=None,
        middleware=[
            Middleware(Gate, jobs=Jobs(page._queue), folder=folder, host=host),
            Middleware(CORSMiddleware),  # no other site; gradio would let all of them read, unless its name is local
        ],
    )
    add_upload(app, folder, cleaner)
    mount(page, app, host, port)
    server = uvicorn.Server(
        uvicorn.Config(app, http=PromptProtocol, ws="none", log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="server")
    thread.start()
    cleaner.start()
    try:
        shown = "localhost" if host in ("0.0.0.0", "::") else host
        yield f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests are broken off now, which is no error
        page.close(verbose=False)
        server.should_exit = True
        thread.join(timeout=STOP_SECONDS)
        cleaner.stop()


def mount(page: "gr.Blocks", app: FastAPI, host: str, port: int) -> None:
    """Make the page the root of the app, with bounds on what gradio keeps and without what visitors do not need."""
    from gradio import mount_gradio_app  # not before `build_page` has set what it reads when it is imported

    page.max_threads = page._queue.max_thread_count = THREADS
    page.state_session_capacity = SESSIONS
    mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=["settings"],
        run_history=False,
        root_path=os.environ.get("GRADIO_ROOT_PATH"),
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        css=stylesheet(),
        js=NAME_EXAMPLES,
    )
    # `page.close` needs both; `serving` stops the server.
    page.app, page.server = app.routes[-1].app, None  # type: ignore[assignment, attr-defined]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: If the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"The page cannot be served on port {port} of {host}: it is in use, or no address of this machine. "
            "Choose another --port or --host."
        ) from error


def allow_descriptors() -> None:
    """Raise this process's limit of open files as far as the system lets it, up to `FILE_DESCRIPTORS`."""
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILE_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(FILE_DESCRIPTORS, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def add_upload(app: FastAPI, folder: Path, cleaner: Cleaner) -> None:
    """Receive uploads in place of gradio, which keeps broken-off ones, and fields of any size in memory."""

    @app.post(f"{API}/upload")
    async def upload(request: Request) -> JSONResponse:
        """One file, form field `files`; answers with a list of its path."""
        try:
            async with request.form(max_files=1, max_fields=0) as form:
                file = form.get("files")
                if file is None or isinstance(file, str):
                    return JSONResponse({"detail": "Expected one file, in the form field files."}, 400)
                # It was received into an anonymous file; a named one must be complete at once.
                path = await run_in_threadpool(keep, file.file, file.filename or "", folder, cleaner)
        except OSError as error:
            raise HTTPException(507, str(cannot_be_kept("The upload", error))) from error
        return JSONResponse([str(path)])

    @app.get(f"{API}/upload_progress")
    async def progress() -> PlainTextResponse:
        """For gradio's script, which asks while it uploads: nothing to tell until the upload is answered."""
        return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def keep(file: BinaryIO, name: str, folder: Path, cleaner: Cleaner) -> Path:
    """Write an upload into a folder of its own, whose name nobody can guess; returns its path.

    Raises:
        OSError: If it cannot be written.
    """
    # Browsers give a name alone, others may give a path.
    name = strip_invalid_filename_characters(name.replace("\\", "/").rpartition("/")[2]).strip(". ") or "upload"
    cleaner.make_room(file.seek(0, os.SEEK_END))
    file.seek(0)
    path = Path(tempfile.mkdtemp(dir=folder)) / name
    try:
        with open(path, "xb") as kept:
            shutil.copyfileobj(file, kept)
    except OSError:
        shutil.rmtree(path.parent)
        raise
    return path
