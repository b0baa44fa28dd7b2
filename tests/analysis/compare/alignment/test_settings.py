import pytest

from opscope.analysis.compare.alignment.settings import other_settings, plain
from opscope.records.ops import Op


def op(name="native_layer_norm", **arguments):
    return Op(0, f"aten.{name}.default", arguments=tuple(arguments.items()))


def test_another_eps_is_told_with_both_values():
    assert other_settings(op(eps=1e-5), op(eps=1e-6)) == [("eps", 1e-5, 1e-6)]


def test_an_argument_that_only_one_was_given_is_told():
    assert other_settings(op(scale=0.5), op()) == [("scale", 0.5, None)]


@pytest.mark.parametrize("name", ["dtype", "device", "memory_format"])
def test_where_and_in_which_numbers_it_runs_is_no_setting(name):
    assert not other_settings(op(**{name: "a"}), op(**{name: "b"}))
    assert plain(((name, "a"), ("dim", 1))) == (("dim", "1"),)


def test_the_least_numbers_of_two_types_fill_masks_alike():
    least = -3.4028234663852886e38, -3.3895313892515355e38, -65504.0

    assert not other_settings(op(value=least[0]), op(value=least[1]))
    assert not other_settings(op(value=least[0]), op(value=least[2]))
    assert other_settings(op(value=least[0]), op(value=-least[1]))


def test_sizes_of_a_view_are_told_by_what_it_gives():
    assert not other_settings(op("view", size=[-1, 4]), op("view", size=[2, 4]))
    assert other_settings(op("convolution", stride=[1]), op("convolution", stride=[2]))


def test_lists_are_compared_item_by_item():
    assert not other_settings(op(dim=[float("nan"), 1.0]), op(dim=[float("nan"), 1.0]))
    assert other_settings(op(dim=[1]), op(dim=[1, 2]))
