"""Which requests pass the gate: names of this machine, a Space, bounds per address."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')
pytest.importorskip("av", reason='videos need pip install -e ".[video]"')

import httpx
from gradio.queueing import Event, Queue
from unet_kvasir_seg.demo import gate, jobs
from unet_kvasir_seg.demo.gate import Gate, files_of, is_own, own_names
from unet_kvasir_seg.demo.jobs import Jobs, RefusedError


class Request:
    """As much of a request as a job keeps."""

    def __init__(self, address: str):
        self.client = type("Client", (), {"host": address})()


class Function:
    """As much of an event's function as a job keeps."""

    concurrency_id = "images"


def queue_of(*visitors: tuple[str, str]) -> Queue:
    """gradio's queue with a job of each visitor, given by name and address, in this order."""
    queue = Queue(False, 1, 1.0, None, blocks=None)
    waiting = queue.event_queue_per_concurrency_id["images"] = type("Waiting", (), {"queue": []})()
    for session, address in visitors:
        job = Event(session, Function(), Request(address), None)
        queue.event_ids_to_events[job._id] = job
        waiting.queue.append(job)
    return queue


def order(queue: Queue) -> list[str]:
    return [job.session_hash for job in queue.event_queue_per_concurrency_id["images"].queue]


def test_visitors_take_turns_and_addresses_within_a_round():
    queue = queue_of(("a", "1"), ("a", "1"), ("a", "1"), ("b", "1"), ("c", "1"), ("d", "2"), ("b", "1"))
    Jobs(queue).take_turns()
    # d is the first of its address, so it does not wait behind b and c.
    assert order(queue) == ["a", "d", "b", "c", "a", "b", "a"]
    Jobs(queue).take_turns()
    assert order(queue) == ["a", "d", "b", "c", "a", "b", "a"]


def test_jobs_are_bounded_for_each_visitor_and_address(monkeypatch):
    monkeypatch.setattr(jobs, "MAX_OF_VISITOR", 3)
    monkeypatch.setattr(jobs, "MAX_OF_ADDRESS", 4)
    bounded = Jobs(queue_of(("a", "1"), ("a", "1"), ("a", "1"), ("b", "1")))
    with pytest.raises(RefusedError) as refusal:
        bounded.check_room("a", "2")
    assert refusal.value.status == 429
    with pytest.raises(RefusedError):
        bounded.check_room("c", "1")
    bounded.check_room("b", "2")
    bounded.check_room("c", None)  # in a Space


def test_answers_that_nobody_fetches_are_dropped(monkeypatch):
    async def scenario() -> set[str]:
        queue = queue_of(("busy", "1"))
        kept = Jobs(queue)
        for session in ("busy", "listening", "gone", "young"):
            kept.check_room(session, "1")
            queue.pending_messages_per_session[session] = asyncio.Queue()
        kept._last_seen = dict.fromkeys(("busy", "listening", "gone"), 0.0) | {"young": kept._last_seen["young"]}
        with kept.listening("listening"):
            kept.check_room("other", "1")
        return set(queue.pending_messages_per_session)

    monkeypatch.setattr(jobs, "UNREAD_SECONDS", 60)
    assert asyncio.run(scenario()) == {"busy", "listening", "young"}


def test_a_page_is_opened_by_addresses_and_own_names_alone():
    names = own_names("Ward.Example")
    for host in ("ward.example", "WARD.example:7860", "localhost:1", "10.0.0.9", "[fe80::1]:7860", "127.0.0.1"):
        assert is_own(host, names), host
    for host in ("evil.example", "10.0.0.9.evil.example", "", ":7860", "[::1", "localhost.evil.example", "1.2.3"):
        assert not is_own(host, names), host


def test_files_are_found_wherever_an_event_names_them():
    event = {
        "data": [{"path": "a"}, [[{"x": {"path": "b", "y": [{"path": None}]}}]], 7, "path"],
        "path": {"path": "c"},
    }
    found = files_of(event)
    assert sorted(map(str, found)) == ["None", "a", "b", "c", "{'path': 'c'}"]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def statuses(folder: Path, *requests: dict[str, Any]) -> list[int]:
    """What the gate answers to requests for /config with these headers."""

    async def ask() -> list[int]:
        behind = Gate(answer, Jobs(queue_of()), folder, "127.0.0.1")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(behind), base_url="http://127.0.0.1") as client:
            return [(await client.get("/config", headers=headers)).status_code for headers in requests]

    return asyncio.run(ask())


def test_a_space_is_opened_by_any_name_and_used_by_its_own_page(tmp_path, monkeypatch):
    requests = (
        {"host": "me-polyps.spaces.example", "origin": "https://me-polyps.spaces.example"},
        {"host": "inner:7860", "origin": "https://me-polyps.spaces.example"},
        {"host": "inner:7860", "origin": "https://evil.example"},
        {"host": "127.0.0.1", "origin": "https://polyps.example", "x-forwarded-host": "polyps.example"},
    )
    assert statuses(tmp_path, *requests) == [421, 421, 421, 200]
    monkeypatch.setenv("SPACE_ID", "me/polyps")
    monkeypatch.setenv("SPACE_HOST", "me-polyps.spaces.example")
    assert statuses(tmp_path, *requests) == [200, 200, 403, 200]


def test_requests_of_an_address_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "MAX_OPEN", 0)
    assert statuses(tmp_path, {}) == [429]
