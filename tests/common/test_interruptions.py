"""Signals and closed outputs, with real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = """
import sys, time
from pathlib import Path
from unet_kvasir_seg.common.errors import user_errors
from unet_kvasir_seg.common.files import atomic_file
with user_errors("predict.py", kept="Go on with it."), atomic_file(Path("out.txt")) as file:
    print("started", flush=True)
    {0}
"""


def start(tmp_path, body, **options):
    return subprocess.Popen(
        [sys.executable, "-c", BLOCK.format(body)], cwd=tmp_path, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(("name", "said"), [("SIGINT", "interrupted"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP")])
def test_a_signal_ends_a_command_with_one_line_and_leaves_nothing(tmp_path, name, said):
    process = start(tmp_path, "time.sleep(60)", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=20)[1] == f"predict.py: {said}. Go on with it.\n"
    assert process.returncode == 128 + getattr(signal, name)
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_at_once_what_cleans_up(tmp_path):
    body = (
        "try:\n        print('working', flush=True); time.sleep(60)\n"
        "    finally:\n        print('cleaning', flush=True); time.sleep(60)"
    )
    process = start(tmp_path, body, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    "swallowing",
    [
        "import os; os.register_at_fork(after_in_parent=wait); os.fork() or os._exit(0)",
        "one = type('One', (), {'__del__': lambda self: wait()})(); del one",
    ],
)
def test_a_signal_that_python_drops_comes_again(tmp_path, swallowing):
    """As while the workers of a data loader are started or ended."""
    body = f"def wait(): print('dropping', flush=True); time.sleep(60)\n    {swallowing}\n    time.sleep(60)"
    process = start(tmp_path, body, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert process.stdout.readline() == "dropping\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[1] == "predict.py: SIGTERM. Go on with it.\n"
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_stays_ignored(tmp_path):
    """As `nohup` ignores SIGHUP."""
    body = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
    process = start(
        tmp_path, body, stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


def test_a_reader_that_has_gone_ends_a_command_quietly(tmp_path):
    process = start(tmp_path, "time.sleep(0.5); print('x' * 100_000)", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_standard_output_that_is_full_is_one_line(tmp_path, unbuffered):
    with open("/dev/full", "w") as full:
        process = start(tmp_path, "pass", stdout=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    said = process.communicate(timeout=20)[1]
    assert said == "predict.py: error: Standard output cannot be written to: No space left on device. Go on with it.\n"
    assert process.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_is_not_standard_output_is_no_quiet_end(tmp_path):
    process = start(tmp_path, "raise BrokenPipeError('of a worker')", stdout=subprocess.PIPE)
    assert "BrokenPipeError" in process.communicate(timeout=20)[1]
    assert process.returncode == 1


def test_a_closed_standard_output_is_no_error(tmp_path):
    code = BLOCK.format("print('nobody reads this')").replace("'", '"')
    command = f"{sys.executable} -c '{code}' >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_forked_processes_end_without_a_word(tmp_path):
    """A data loader's workers are ended by SIGTERM."""
    body = (
        "import os, signal; child = os.fork()\n"
        "    if child == 0: time.sleep(60)\n"
        "    time.sleep(0.3); os.kill(child, signal.SIGTERM); print(os.waitpid(child, 0)[1])"
    )
    process = start(tmp_path, body, stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=20)
    assert (out.split()[-1], err) == (str(int(signal.SIGTERM)), "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not Linux")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "Standard output cannot be written to: No space left on device. Nothing was lost."),
        ("raise UserError('No input.')", "No input."),
    ],
)
def test_a_full_disk_behind_the_standard_output_is_one_line(tmp_path, body, said):
    code = f"""
from unet_kvasir_seg.common.errors import UserError, user_errors
with user_errors("predict.py"):
    print("written when the buffer is")
    {body}
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr.startswith(f"predict.py: error: {said}")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


def test_a_reader_of_both_outputs_that_has_gone_does_not_change_the_status(tmp_path):
    process = start(tmp_path, "time.sleep(0.5); raise OSError('no file')", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_a_signal_that_a_library_swallows_still_ends_a_command(tmp_path):
    """As some imports do; what is cleaned up is not disturbed."""
    body = (
        "try:\n        print('working', flush=True); time.sleep(60)\n    except BaseException:\n        pass\n"
        "    try:\n        time.sleep(60)\n    finally:\n        time.sleep(1.5); print('clean', flush=True)"
    )
    process = start(tmp_path, body, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("clean\n", "predict.py: SIGTERM. Go on with it.\n")
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
