"""One-line errors, and the words that messages are made of."""

import pytest
from unet_kvasir_seg.common.errors import UserError, first_line, require_extra, some, user_errors


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


def test_of_long_lists_the_rest_is_counted_and_of_long_messages_the_first_line_is_kept():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefg"), most=3) == "a, b, c and 4 more"
    assert first_line(ValueError("It broke.\nAt length.")) == "It broke"
    assert first_line(KeyError()) == "KeyError"
