"""Whether a repo can be pushed to is asked before the work, of a Hub on this machine."""

import os
import subprocess
import sys

import pytest
from loopback_hub import LoopbackHub, Repo
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.common.hub import check_writable


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub() as hub:
        hub.repos["team/unet"] = Repo()
        hub.repos["spaces/team/page"] = Repo()
        hub.answer_this_process(monkeypatch)
        yield hub


def refusal(*repo: str) -> str:
    with pytest.raises(UserError) as error:
        check_writable(*repo)
    return str(error.value)


def test_a_repo_that_may_be_written_to_passes_and_stays_as_it_is(hub):
    check_writable("team/unet")
    check_writable("team/page", "space")
    assert hub.repos["team/unet"].pushes == []
    assert not any("/commit/" in request for request in hub.requests)


def test_an_absent_repo_and_one_of_another_kind_are_named(hub):
    for repo in (("team/unte",), ("team/page",), ("team/unet", "space")):
        assert refusal(*repo).startswith(f"Nothing can be pushed to {repo[0]}: ")


def test_a_token_that_may_not_write_is_refused(hub, monkeypatch):
    hub.refusals["POST .*/preupload/"] = 403
    assert "Nothing can be pushed to team/unet: " in refusal("team/unet")
    hub.refusals.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "Nothing can be pushed to team/unet: " in refusal("team/unet")


def test_a_hub_that_cannot_be_reached_is_one_line(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub waits 23 seconds in all
    hub.refusals["."] = 503
    message = refusal("team/unet")
    assert "Nothing can be pushed to team/unet: " in message
    assert "\n" not in message


@pytest.mark.parametrize("ask", ["make_repo", "check_writable"])
def test_offline_the_remedy_is_to_go_online(ask):
    """In a process of its own, since huggingface_hub reads the variable once."""
    code = f"from unet_kvasir_seg.common.hub import {ask} as ask; ask('me/unet')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    assert b"HF_HUB_OFFLINE forbids it. Unset it to push." in done.stderr
    assert b"hf auth login" not in done.stderr.splitlines()[-1]
