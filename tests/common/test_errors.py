"""Reasons that an error's line gives, with the place once and without Python's jargon."""

import errno
import json
import os
import pickle
from collections.abc import Callable

import pytest

from common.errors import FieldError, not_json, reason


def raised(function: Callable[..., object], given: object) -> ValueError:
    with pytest.raises(ValueError) as error:
        function(given)
    return error.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a.toml"), "Permission denied"),
        (raised(bytes.decode, b"ab\xff"), "not UTF-8 text"),
        (raised(json.loads, ""), "not JSON: Expecting value at line 1, character 1"),
        (raised(json.loads, "{\n  1: 2}"), "not JSON: Expecting property name enclosed in double quotes at line 2"),
        (ValueError("of two\nlines"), "of two lines"),
        (ValueError(), "ValueError"),
    ],
)
def test_why_a_file_cannot_be_read(error: Exception, said: str) -> None:
    assert reason(error).startswith(said)


def test_a_line_that_is_not_json_has_its_number_only_once() -> None:
    error = raised(json.loads, '{"a": }')
    assert not_json(error) == "is not JSON: Expecting value at character 7"
    assert not_json(RecursionError("too deep")) == "is not JSON: too deep"


def test_the_error_of_a_field_survives_the_way_from_another_process() -> None:
    error = FieldError("gb", "must be above 0, not -1").inside("cache")
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied)) == (FieldError, "cache.gb: must be above 0, not -1")
