"""One-line errors, and the words that messages are made of."""

import pickle

import pytest
from conftest import ROOT
from unet_kvasir_seg.common.errors import (
    UserError,
    describe_error,
    first_line,
    install_command,
    printable,
    require_extra,
    some,
    user_errors,
)

# Escapes, line breaks, bytes that are not UTF-8, and what reverses the direction of writing.
HOSTILE = "\x1b[31m\x07\r\n\u2028\x9b\udcff\u202e\u200b"
ESCAPED = r"\x1b[31m\x07\r\n\u2028\x9b\udcff\u202e\u200b"


def test_a_users_error_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as end, user_errors("train.py"):
        raise UserError("Got x. Expected y.")
    assert end.value.code == 2
    assert capsys.readouterr().err == "train.py: error: Got x. Expected y.\n"


def test_a_programmers_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), user_errors("train.py"):
        raise ZeroDivisionError


def test_a_missing_extra_is_named_with_the_remedy():
    require_extra("evaluation", "json", "numpy")
    with pytest.raises(UserError, match=r'no_such_package is not installed; .*pip install -e "\.\[evaluation\]"'):
        require_extra("evaluation", "json", "no_such_package")


def test_an_extra_is_added_to_a_clone_or_to_an_installed_package(monkeypatch, tmp_path):
    assert install_command("video") == f'pip install -e ".[video]" in {ROOT}'
    monkeypatch.setattr("unet_kvasir_seg.common.errors.PACKAGE", tmp_path)  # as of a wheel: no pyproject.toml
    assert install_command("video") == 'pip install "unet-kvasir-seg[video]"'


def test_of_long_lists_the_rest_is_counted_and_of_long_messages_the_first_line_is_kept():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefg"), most=3) == "a, b, c and 4 more"
    assert first_line(ValueError("It broke.\nAt length.")) == "It broke"
    assert first_line(KeyError()) == "KeyError"


def test_what_a_terminal_would_act_on_is_escaped():
    assert printable(f"ä b{HOSTILE}c") == f"ä b{ESCAPED}c"
    assert some([HOSTILE, "a"]) == f"{ESCAPED}, a"


def test_a_users_error_stays_one_line_with_its_details_below(capsys):
    error = pickle.loads(pickle.dumps(UserError(f"There is no {HOSTILE}.", details=[f"one {HOSTILE}", "two"])))
    assert str(error).startswith("There is no ")
    with pytest.raises(SystemExit), user_errors("train.py"):
        raise error
    expected = f"train.py: error: There is no {ESCAPED}.\n  one {ESCAPED}\n  two\n"
    assert capsys.readouterr().err == expected


def test_any_error_is_described_in_one_line():
    assert describe_error(ValueError("is damaged.\nAt length.")) == "is damaged"
    assert describe_error(RecursionError("too deep\nindeed")) == "RecursionError: too deep"
    assert describe_error(MemoryError()) == "MemoryError"
