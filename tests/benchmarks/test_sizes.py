"""Sizes by name, in numbers, at random and along an axis, and the least work that they are."""

import pytest

from benchmarks import plans, sizes
from benchmarks.sizes import GRID, RANGES, Entry, Size, draw, flops, parse, sweep


def test_a_size_is_read_from_four_to_six_numbers():
    assert parse("2,3,4,5").shape == (2, 3, 4, 5, 1, 1)
    assert parse("2, 3, 4, 5, 6").shape == (2, 3, 4, 5, 6, 1)
    assert parse("2,3,4,5,6,2").shape == (2, 3, 4, 5, 6, 2)


@pytest.mark.parametrize(
    "text", ["", "32", "1,2,3", "1,2,3,x", "0,1,1,1", "1,1,1,1,1,3", "1,1,1,1,1,1,1", "1,,1,1"]
)
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"B,T,I,H\[,L\[,D\]\].*for instance 32,128,128,256"):
        parse(text)


def test_random_sizes_can_be_drawn_again_and_more_of_them():
    assert draw(6, seed=3) == draw(20, seed=3)[:6]
    assert draw(6, seed=3) != draw(6, seed=4)


def test_random_sizes_are_within_their_ranges_and_train_within_the_budget():
    for size in draw(200, seed=0):
        for value, (low, high) in zip(size.shape, RANGES.values(), strict=False):
            assert low <= value <= high
        assert 3 * flops(size, "lstm") <= sizes.TRAINING_FLOPS


def test_random_sizes_are_not_those_that_code_was_tuned_on(monkeypatch):
    drawn = draw(3, seed=0)
    monkeypatch.setitem(sizes.GRID, "tuned", (Entry(Size("tuned", *drawn[1].shape)),))
    assert drawn[1].shape not in {size.shape for size in draw(3, seed=0)}
    assert draw(3, seed=0)[1].shape == drawn[2].shape


@pytest.mark.parametrize("axis", ["T", "B", "H"])
def test_a_sweep_changes_one_number_alone(axis):
    medium = GRID["medium"][0].size
    found = list(sweep(medium, axis))
    place = "BTIH".index(axis)
    assert [size.shape[place] / medium.shape[place] for size in found] == [0.25, 0.5, 1, 2, 4]
    others = {size.shape[:place] + size.shape[place + 1 :] for size in found}
    assert others == {medium.shape[:place] + medium.shape[place + 1 :]}


def test_a_forward_pass_has_the_products_of_each_layer_and_direction():
    B, T, I, H = 3, 5, 7, 11
    one = 2 * B * T * 4 * H * (I + H)
    assert flops(Size("", B, T, I, H), "lstm") == one
    second = 2 * B * T * 4 * H * (2 * H + H)
    assert flops(Size("", B, T, I, H, 2, 2), "lstm") == 2 * (one + second)
    assert flops(Size("", B, T, I, H, calls=10), "gru") == 10 * one * 3 / 4
    projected = 2 * B * T * (4 * H * (I + 2) + 2 * H)
    assert flops(Size("", B, T, I, H), "lstm", projected_features=2) == projected


# What is asked for


def chosen(*names, sizes=(), random=0, axes=()):
    return plans.entries(names, sizes=sizes, random=random, seed=0, axes=axes)


def test_without_a_word_the_whole_grid_is_chosen():
    assert chosen() == [entry for entries in GRID.values() for entry in entries]
    assert [entry.size.name for entry in chosen("stream")] == ["stream", "stream-step"]
    assert len(chosen("course", sizes=["1,2,3,4"], random=3)) == 5


def test_a_sweep_goes_around_the_size_that_is_named_or_medium():
    assert {entry.size.hidden_features for entry in chosen(axes=["T"])} == {256}
    assert {entry.size.hidden_features for entry in chosen("long", axes=["T"])} == {128}
    with pytest.raises(ValueError, match="one NAME"):
        chosen("long", "course", axes=["T"])


def test_an_unknown_name_is_refused_with_a_near_one():
    with pytest.raises(ValueError, match=r"did you mean medium\?"):
        chosen("medum")
