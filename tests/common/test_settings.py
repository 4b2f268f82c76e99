"""Settings as dataclasses: checked by their annotations, to plain data and back."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval

from common.errors import FieldError
from common.settings import OrInfinite, check, descriptions, from_data, to_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A nested setting."""

    gb: Annotated[float, Gt(0)] | None = None
    """Gigabytes."""
    experts: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class Settings:
    """One of each kind."""

    trace: Path
    """A folder,
    over two lines."""
    _: KW_ONLY
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    kind: Literal["one", "other"] = "one"
    size: Size = field(default_factory=lambda: Size(gb=3))
    several: tuple[Annotated[int, Ge(1)], ...] = ()
    check: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        check(self)


def test_values_are_stored_in_the_declared_type() -> None:
    settings = Settings("a.trace", share=np.float32(0.25), several=[1, np.int64(2)], size={"experts": 4})  # type: ignore[arg-type]
    assert settings.trace == Path("a.trace")
    assert (settings.share, type(settings.share)) == (0.25, float)
    assert settings.several == (1, 2)
    assert type(settings.several[1]) is int
    assert settings.size == Size(experts=4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 1}, "share: must be at least 0 and below 1, not 1.0"),
        ({"share": float("nan")}, "share: must be a finite number, not nan"),
        ({"share": 10**400}, "share: must be a finite number, not 1"),
        ({"share": True}, "share: must be a number, not True"),
        ({"share": "0.5"}, "share: must be a number, not '0.5'"),
        ({"kind": "third"}, "kind: must be one or other, not 'third'"),
        ({"size": {"gb": 0}}, "size.gb: must be above 0, not 0.0"),
        ({"size": {"gib": 1}}, "size.gib: is not a setting; did you mean 'gb'?"),
        ({"size": 3}, "size: must be a table or a Size, not 3"),
        ({"several": 3}, "several: must be a list, not 3"),
        ({"several": [1, 0]}, "several: must be at least 1, not 0"),
        ({"several": [1.5]}, "several: must be a whole number, not 1.5"),
        ({"check": 1}, "check: must be true or false, not 1"),
        ({"name": 1}, "name: must be a string, not 1"),
        ({"trace": 1}, "trace: must be a path, not 1"),
        ({"shar": 1}, "shar: is not a setting; did you mean 'share'?"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as raised:
        from_data(Settings, {"trace": "a.trace"} | given)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_setting_without_default_is_required() -> None:
    with pytest.raises(FieldError, match=r"^trace: is required$"):
        from_data(Settings, {})


@pytest.mark.parametrize("defaults", [True, False])
def test_plain_data_and_back(defaults: bool) -> None:
    settings = Settings(Path("a.trace"), size=Size(experts=2), several=(3,), name="mine")
    assert from_data(Settings, to_data(settings, defaults=defaults)) == settings


def test_defaults_are_left_out_on_request() -> None:
    assert to_data(Settings(Path("a.trace"), share=0.25), defaults=False) == {"trace": "a.trace", "share": 0.25}


def test_a_field_is_described_by_the_docstring_below_it() -> None:
    assert descriptions(Settings) == {"trace": "A folder, over two lines."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What only some settings have: texts under any keys, and a number without an upper end."""

    sources: Mapping[str, str] = field(default_factory=dict)
    rate: Annotated[float, Gt(0), OrInfinite()] = 1.0

    def __post_init__(self) -> None:
        check(self)


def test_texts_under_any_keys_go_to_plain_data_and_back() -> None:
    given = {"sources": {"gpu.rate": "data sheet", "": ""}, "rate": 2.0}
    assert to_data(from_data(Rates, given)) == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sources": 3}, "sources: must be a table of strings, not 3"),
        ({"sources": {"a": 3}}, "sources.a: must be a string, not 3"),
        ({"rate": -math.inf}, "rate: must be a finite number, not -inf"),
        ({"rate": math.nan}, "rate: must be a finite number, not nan"),
        ({"rate": 0}, "rate: must be above 0, not 0.0"),
    ],
)
def test_a_value_that_is_no_string_or_no_rate_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as error:
        Rates(**given)
    assert str(error.value) == said


def test_a_number_is_infinite_only_where_that_is_declared() -> None:
    assert Rates(rate=math.inf).rate == math.inf
    with pytest.raises(FieldError, match=r"^gb: must be a finite number, not inf$"):
        Size(gb=math.inf)
