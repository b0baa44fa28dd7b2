import inspect
import pickle
import re

import pytest

from opscope import errors
from opscope.errors import (
    AmbiguousLayer,
    LayerNotFound,
    OpscopeError,
    OptionError,
    check_choice,
    check_depth,
    nearest,
)

CHILDREN = OpscopeError.__subclasses__()


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = re.findall(r"[├└]── (\w+) .*\((\w+)\)", errors.__doc__)

    assert drawn == [(child.__name__, child.__mro__[2].__name__) for child in CHILDREN]


def test_every_error_of_the_module_is_below_opscope_error():
    found = [item for _, item in inspect.getmembers(errors, inspect.isclass)
             if item.__module__ == errors.__name__]  # fmt: skip

    assert set(found) == {OpscopeError, *CHILDREN}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_message_prints_as_plain_text_also_below_key_error(kind):
    error = kind("no layer answers to 'x'")

    assert str(error) == "no layer answers to 'x'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("kind", CHILDREN)
def test_an_error_without_a_message_prints_nothing(kind):
    assert str(kind()) == ""


@pytest.mark.parametrize("kind", [LayerNotFound, AmbiguousLayer])
def test_lookup_errors_are_caught_as_key_errors(kind):
    assert issubclass(kind, KeyError)


def test_a_wrong_choice_lists_the_right_ones():
    with pytest.raises(OptionError) as error:
        check_choice("level", "modul", ("op", "layer", "module"))

    assert str(error.value) == "unknown level: 'modul' (must be one of 'op', 'layer', 'module')"


@pytest.mark.parametrize("value", ["a", "b"])
def test_a_right_choice_passes(value):
    check_choice("option", value, ("a", "b"))


@pytest.mark.parametrize("value", [None, [], {}, 3])
def test_a_choice_of_another_type_is_a_wrong_choice(value):
    with pytest.raises(OptionError, match=r"unknown option: .* \(must be one of 'a', 'b'\)"):
        check_choice("option", value, ("a", "b"))


@pytest.mark.parametrize("depth", [None, 1, 10])
def test_depths_that_are_right(depth):
    check_depth(depth)


@pytest.mark.parametrize("depth", [0, -1, 1.0, "1", True])
def test_depths_that_are_wrong(depth):
    with pytest.raises(OptionError) as error:
        check_depth(depth)

    assert str(error.value) == (
        f"depth: {depth!r} (must be None, for all levels, or a whole number from 1)"
    )


def test_the_nearest_candidates_come_best_first():
    assert nearest("relu_1", ["conv_1", "relu_12", "relu_1_2", "tanh"])[:2] == [
        "relu_12",
        "relu_1_2",
    ]


def test_where_nothing_is_near_the_first_few_are_shown_each_once():
    assert nearest("zzz", ["a", "b", "a", "c"], count=2) == ["a", "b"]


def test_the_nearest_of_nothing_is_nothing():
    assert nearest("x", []) == []
