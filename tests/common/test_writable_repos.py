"""Whether a repo can be pushed to is asked before the work, of a Hub on this machine."""

import os
import subprocess
import sys

import pytest
from loopback_hub import LoopbackHub, Repo

CHECK = "import sys; from unet_kvasir_seg.common.hub import check_writable; check_writable(*sys.argv[1:])"


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        hub.repos["team/unet"] = Repo()
        hub.repos["spaces/team/page"] = Repo()
        yield hub


def check(hub: LoopbackHub, *repo: str, token: str | None = None) -> str:
    """The last line of the error; empty if there is none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token or hub.token}
    done = subprocess.run([sys.executable, "-c", CHECK, *repo], env=environment, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def test_a_repo_that_may_be_written_to_passes_and_stays_as_it_is(hub):
    assert check(hub, "team/unet") == ""
    assert check(hub, "team/page", "space") == ""
    assert hub.repos["team/unet"].pushes == []
    assert not any("/commit/" in request for request in hub.requests)


def test_an_absent_repo_and_one_of_another_kind_are_named(hub):
    for repo in (("team/unte",), ("team/page",), ("team/unet", "space")):
        assert f"UserError: Nothing can be pushed to {repo[0]}: " in check(hub, *repo)


def test_a_token_that_may_not_write_is_refused(hub):
    assert "Nothing can be pushed to team/unet: " in check(hub, "team/unet", token="hf_another")
    hub.refusals["POST .*/preupload/"] = 403
    assert "Nothing can be pushed to team/unet: " in check(hub, "team/unet")


def test_a_hub_that_cannot_be_reached_is_one_line(hub):
    hub.refusals["."] = 503
    assert "Nothing can be pushed to team/unet: " in check(hub, "team/unet")


@pytest.mark.parametrize("ask", ["make_repo", "check_writable"])
def test_offline_the_remedy_is_to_go_online(ask):
    """In a process of its own, since huggingface_hub reads the variable once."""
    code = f"from unet_kvasir_seg.common.hub import {ask} as ask; ask('me/unet')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    assert b"HF_HUB_OFFLINE forbids it. Unset it to push." in done.stderr
    assert b"hf auth login" not in done.stderr.splitlines()[-1]
