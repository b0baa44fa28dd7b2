import inspect
import pickle
import re
from difflib import get_close_matches

import pytest

from opscope import errors
from opscope.errors import (
    AmbiguousLayer,
    LayerNotFound,
    NonFiniteError,
    OpscopeError,
    OptionError,
    check_choice,
    check_depth,
    check_width,
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


@pytest.mark.parametrize("width", ["80", 80.0, None, True, 0, -1, 29, [80]])
def test_a_width_that_is_none_is_refused_by_name(width):
    with pytest.raises(OptionError) as error:
        check_width(width)

    assert str(error.value) == (f"width: {width!r} (must be a whole number of characters from 30)")


@pytest.mark.parametrize("width", [30, 31, 10_000])
def test_a_width_from_30_passes(width):
    check_width(width)


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_message_is_one_line_that_commands_nothing(kind):
    error = kind("no\n\x1b[2J \u202eluck\u2028" + "x" * 100_000)

    for text in (str(error), repr(error), *error.args):
        assert text.isprintable()
        assert len(text) < 2100
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_first_bad_number_is_told_in_lines_that_command_nothing():
    odd = "\x1b[2J\n\u202e" + "y" * 100_000
    error = NonFiniteError(kind="NaN", operator=f"aten.{odd}", ranges=(f"self {odd}",) * 3)
    error.op, error.layer, error.module, error.source = 3, odd, odd, f"{odd}:7"
    lines = str(error).split("\n")

    assert len(lines) == 5
    assert all(line.isprintable() and len(line) < 1000 for line in lines)


def test_the_nearest_of_very_long_names_are_found_at_once():
    names = ["".join(chr(300 + i % 997) for i in range(start, 10**5)) for start in range(20)]

    assert nearest(names[0][:-1], names)[0] == names[0]


def test_of_very_many_candidates_only_the_likely_ones_are_compared(monkeypatch):
    compared = []

    def close_matches(key, pool, **options):
        compared.append(len(pool))
        return get_close_matches(key, pool, **options)

    monkeypatch.setattr("opscope.errors.difflib.get_close_matches", close_matches)
    names = [f"relu_{number}_{number + 1}" for number in range(5000)]

    assert nearest("relu_123_1245", names)[0] == "relu_123_124"
    assert nearest("releu_4321_4322", names)[0] == "relu_4321_4322"
    assert nearest("?", names) == names[:5]
    assert max(compared) < 500
