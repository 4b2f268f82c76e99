"""Settings as text: what each annotation makes of it, and what is refused in which line."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, Optional  # noqa: F401  # annotations below are text that names them

import numpy as np
import pytest

from common.errors import UserError
from policies.policy_settings import UNDERSTOOD, Setting, called, settings_of


def taking(annotation: object, *default: object) -> Callable[..., Any]:
    """A factory with one setting, `x`, that returns what it is given."""

    def factory(x: Any) -> Any:
        return x

    factory.__annotations__ = {"x": annotation}
    factory.__defaults__ = default or None
    return factory


def refusal(factory: Callable[..., Any], part: str) -> str:
    with pytest.raises(UserError) as raised:
        called(factory, "policy", part)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- text to value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", [(), (None,), (3,)], ids=["required", "none", "three"])
@pytest.mark.parametrize("resolved", [True, False], ids=["type", "text"])
@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("bool", "true", True),
        ("bool", "False", False),
        ("int", "2", 2),
        ("int", "-2", -2),
        ("int", "16_000_000", 16_000_000),
        ("float", "2", 2.0),
        ("float", "1e-3", 0.001),
        ("str", "2", "2"),
        ("str", "", ""),
        ("str", "none", "none"),
        ("str", "a=b", "a=b"),
        ("int | None", "2", 2),
        ("int | None", "none", None),
        ("Optional[float]", "None", None),
        ("None | str", "none", None),
        ("bool | None", "false", False),
        ("Optional['int']", "2", 2),
        ("Literal['exceed', 'top-k']", "top-k", "top-k"),
        ("Literal[1, 2]", "2", 2),
        ("Literal['auto', 2]", "2", 2),
        ("Literal['auto', 2]", "auto", "auto"),
        ("Literal['auto', 'none']", "none", "none"),
        ("Literal['auto', 2] | None", "none", None),
        ("int | Literal['whole']", "2", 2),
        ("int | Literal['whole'] | None", "whole", "whole"),
        ("Literal['whole'] | float | None", "none", None),
        ("float | Literal['whole']", "2", 2.0),
    ],
)
def test_the_annotation_says_how_the_text_is_read(
    annotation: str, text: str, value: object, resolved: bool, default: tuple[object, ...]
) -> None:
    factory = taking(eval(annotation) if resolved else annotation, *default)
    read = called(factory, "policy", f"mine:again,x={text}")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("default", "text", "value"), [(True, "false", False), (1, "2", 2), (1.0, "2", 2.0), ("", "2", "2")]
)
def test_without_annotation_a_setting_has_the_type_of_its_default(default: object, text: str, value: object) -> None:
    def factory(x=default):  # type: ignore[no-untyped-def]
        return x

    read = called(factory, "policy", f"mine:again,x={text}")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "said"),
    [
        ("bool", "yes", "must be true or false, not 'yes'"),
        ("int", "two", "must be a whole number, not 'two'"),
        ("int", "2.0", "must be a whole number, not '2.0'"),
        ("int", "", "must be a whole number, not ''"),
        ("int", "none", "must be a whole number, not 'none'"),
        ("float", "two", "must be a finite number, not 'two'"),
        ("float", "nan", "must be a finite number, not 'nan'"),
        ("float", "-inf", "must be a finite number, not '-inf'"),
        ("float", "1e999", "must be a finite number, not '1e999'"),
        ("int | None", "two", "must be a whole number or none, not 'two'"),
        ("float | None", "inf", "must be a finite number or none, not 'inf'"),
        ("Literal['exceed', 'demo']", "Demo", "must be exceed or demo, not 'Demo'; did you mean 'demo'?"),
        ("Literal['exceed', 'demo']", "x", "must be exceed or demo, not 'x'"),
        ("Literal[1, 2] | None", "3", "must be 1, 2 or none, not '3'"),
        ("int | Literal['whole'] | None", "al", "must be a whole number, whole or none, not 'al'"),
        ("float | Literal['whole']", "hole", "must be a finite number or whole, not 'hole'; did you mean 'whole'?"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_the_accepted_values(annotation: str, text: str, said: str) -> None:
    part = f"mine:again,x={text}"
    assert refusal(taking(annotation), part) == f"policy {part!r}: x: {said}"


# ---- what a factory may declare --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        ("dict[str, int]", "dict[str, int]"),
        ("np.ndarray", "numpy.ndarray"),
        ("int | str", "int | str"),
        ("None", "NoneType"),
        ("Any", "Any"),
        ("Annotated[int, 'at least 1']", "Annotated[int, 'at least 1']"),
        ("Literal[True]", "Literal[True]"),
        ("Literal['a', 1.5]", "Literal['a', 1.5]"),
    ],
)
def test_an_annotation_that_no_text_can_fill_is_refused(annotation: str, shown: str) -> None:
    """Also where the setting has a default and is left out: whoever wrote it learns of it at once."""
    said = f"policy mine:again: setting 'x' has the annotation {shown}; supported are {UNDERSTOOD}"
    assert refusal(taking(annotation), "mine:again,x=1") == said
    assert refusal(taking(annotation, None), "mine:again") == said


@pytest.mark.parametrize("annotation", ["str | Literal['a']", "int | Literal[1, 2]", "int | float | Literal['a']"])
def test_a_literal_of_words_combines_with_one_kind_of_number_only(annotation: str) -> None:
    assert refusal(taking(annotation), "mine:again,x=1").endswith(f"; supported are {UNDERSTOOD}")


def test_an_annotation_that_names_nothing_is_refused() -> None:
    assert refusal(taking("Distance"), "mine:again,x=1") == (
        "policy mine:again: setting 'x' has an annotation that cannot be resolved: name 'Distance' is not defined"
    )


@pytest.mark.parametrize("default", [(), (None,), ((1, 2),), (np.float64(1),)])
def test_without_annotation_and_a_plain_default_the_author_is_asked_for_one(default: tuple[object, ...]) -> None:
    def factory(x):  # type: ignore[no-untyped-def]
        return x

    factory.__defaults__ = default or None
    assert refusal(factory, "mine:again") == (
        f"policy mine:again: setting 'x' needs an annotation, for example x: int; supported are {UNDERSTOOD}"
    )


def test_only_parameters_with_a_name_of_their_own_are_settings() -> None:
    def factory(first: int = 1, /, *rest: int, second: int = 2, **others: int) -> Any:
        return first, rest, second, others

    assert list(settings_of(factory, "policy mine:again")) == ["second"]
    assert called(factory, "policy", "mine:again,second=3") == (1, (), 3, {})
    for name in ("first", "rest", "others", "third"):
        assert refusal(factory, f"mine:again,{name}=3") == (
            f"policy mine:again: unknown setting {name!r}; known: second"
        )


def test_a_class_is_asked_for_the_settings_of_its_constructor() -> None:
    class Base:
        def __init__(self, *, distance: "int | None" = None) -> None:
            self.distance = distance

    class Derived(Base):
        pass

    assert settings_of(Derived, "policy x") == {"distance": Setting(kind=int, nullable=True, default=None)}
    assert called(Derived, "policy", "x,distance=4").distance == 4


def test_a_partial_function_has_the_settings_that_it_leaves_open() -> None:
    def factory(distance: "int", *, decay: "float") -> Any:
        return distance, decay

    assert called(partial(factory, decay=0.5), "policy", "x,distance=4") == (4, 0.5)
    assert list(settings_of(partial(factory, 4), "policy x")) == ["decay"]


def test_a_callable_without_a_signature_is_refused() -> None:
    assert refusal(dict, "mine:again") == (
        "policy mine:again: its settings cannot be read: no signature found for builtin type <class 'dict'>"
    )


# ---- calling it ------------------------------------------------------------------------------------------------------


def two(a: int, b: int, c: int = 3) -> Any:
    return a, b, c


def failing(depth: int = 1) -> Any:
    if depth == 0:
        raise UserError("depth 0: is too little")
    if depth == 9:
        raise RuntimeError
    return {}[depth]


@pytest.mark.parametrize(
    ("factory", "part", "said"),
    [
        (two, "mine:two", "policy mine:two needs the settings 'a', 'b'"),
        (two, "mine:two,b=1", "policy mine:two needs the setting 'a'"),
        (two, "mine:two,a=1,b=2,a=1", "policy 'mine:two,a=1,b=2,a=1': a: is set twice"),
        (two, "mine:two,a=1,b=2,cc=1", "policy mine:two: unknown setting 'cc'; did you mean 'c'?"),
        (two, "mine:two,a", "policy 'mine:two,a': must be KEY=VALUE, not 'a'"),
        (two, "mine:two,", "policy 'mine:two,': must be KEY=VALUE, not ''"),
        (lambda: 0, "mine:two,a=1", "policy mine:two has no settings; remove 'a'"),
        (failing, "mine:failing", "policy mine:failing cannot be made: KeyError: 1"),
        (failing, "mine:failing,depth=9", "policy mine:failing cannot be made: RuntimeError"),
        (failing, "mine:failing,depth=0", "depth 0: is too little"),
    ],
)
def test_a_mistake_is_one_line(factory: Callable[..., Any], part: str, said: str) -> None:
    assert refusal(factory, part) == said


def test_an_exception_in_a_factory_is_the_cause() -> None:
    with pytest.raises(UserError) as raised:
        called(failing, "policy", "mine:failing")
    assert isinstance(raised.value.__cause__, KeyError)
