"""Glyphs and their names: what is held out was not learned from, and scores are counted as they say."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from examples.caption_glyphs import (
    EOS,
    SIZES,
    Glyphs,
    Size,
    characters,
    first,
    load,
    name_of,
    nearest,
    right,
    words_found,
)

DATA = load(Size(characters=60), 0)


def test_names_are_those_of_unicode():
    assert name_of("ņ") == "latin small letter n with cedilla"
    assert {"A", "ж", "→"} <= set(characters())


def test_new_characters_have_known_words_and_unknown_names():
    new = set(DATA.characters.names)
    assert new
    assert not new & set(DATA.train.names)
    assert {word for name in new for word in name.split()} <= set(DATA.words)


def test_fonts_held_out_draw_other_images_of_the_same_names():
    learned = {image.tobytes() for image in DATA.train.images}
    for held_out in (DATA.validation, DATA.fonts, DATA.characters):  # the fonts share some drawings
        assert not any(image.tobytes() in learned for image in held_out.images)
    assert set(DATA.fonts.names) <= set(DATA.train.names)
    assert len(DATA.fonts.names) > 60
    assert DATA.train.images.min() == 0
    assert DATA.train.images.max() == 1
    assert all(image.any() for image in DATA.train.images)


def test_every_name_is_its_tokens_and_ends():
    for name, tokens, length in zip(DATA.train.names, DATA.train.target, DATA.train.lengths, strict=True):
        assert " ".join(DATA.words[t - 3] for t in tokens[: length - 1]) == name
        assert tokens[length - 1] == EOS


def test_scores_are_counted_by_hand():
    nothing = np.zeros(0)
    true = Glyphs(["latin small letter a", "house"], nothing, nothing, nothing)
    said = ["latin capital letter a", "house"]
    assert right(said, true) == 50
    assert words_found(said, true) == pytest.approx((75 + 100) / 2)
    assert words_found(["", ""], true) == 0


def test_the_nearest_image_is_itself():
    few = first(DATA.train, 20)
    assert nearest(DATA.train, few) == few.names


def test_the_default_size_is_between_the_others():
    assert SIZES["small"].characters < SIZES["default"].characters < SIZES["full"].characters
