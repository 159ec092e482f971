from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from lightning_interp.drawing import pictures
from lightning_interp.methods.bias.figures.interventions import _glow, _wrap, intervention_gallery
from lightning_interp.methods.bias.result import Version
from tests.helpers.bias_results import SIZE, bias_result, example, face
from tests.helpers.results import HOSTILE

BLUE, BROWN = (0x00, 0x72, 0xB2), (0xA8, 0x48, 0x0F)
YELLOW = (255, 226, 64)


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn, with its colour."""
    texts = []
    draw = ImageDraw.ImageDraw.text

    def text(self, place, words, fill=None, **options):
        texts.append((words, fill))
        return draw(self, place, words, fill=fill, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def colors(texts):
    return {words: tuple(bytes.fromhex(fill[1:])) for words, fill in texts}


def test_a_shortcut_is_told_under_the_pictures(written):
    # Masking the mouth changes the score by 0.2 of 4, masking the eyes by 4.5.
    intervention_gallery(bias_result(examples=(example(4.0, 3.8, -0.5),)))
    told = colors(written)
    assert {"+4.00", "+3.80", "-0.50", "-0.20", "-4.50"} <= set(told)
    assert told["should have changed"] == told["should have stayed"] == told["-0.20"] == told["-4.50"] == BROWN


def test_a_network_that_looks_at_the_mouth_is_told_to_be_right(written):
    intervention_gallery(bias_result(examples=(example(-4.0, -0.5, -3.8),)))
    told = colors(written)
    assert told["rightly changed"] == told["rightly stayed"] == told["+3.50"] == told["+0.20"] == BLUE
    assert BROWN not in told.values()


def test_half_of_the_mean_score_counts_as_changed(written):
    # Originals of 6 and -2: a change counts from 2, also in the row whose own score is small.
    intervention_gallery(bias_result(examples=(example(6.0, 4.0, 6.0), example(-2.0, -0.01, -2.0))))
    assert [words for words, _ in written if words.endswith("changed")] == ["rightly changed", "should have changed"]
    assert "A change counts from 2.00, half of the originals' mean score." in " ".join(words for words, _ in written)


def test_captions_of_two_lines_make_room_for_all():
    long = replace(example().versions[1], caption="the mouth of another face that has no lipstick")
    two = example(versions=(*example().versions[:2], long))
    heights = [intervention_gallery(bias_result(examples=(e, e))).height for e in (example(), two)]
    assert heights[1] - heights[0] == 2 * 16


def test_without_signal_nothing_is_judged(written):
    intervention_gallery(bias_result(signal={"makeup": False, "blond": False}))
    told = colors(written)
    assert not [words for words in told if words.startswith(("rightly", "should have"))]
    assert next(words for words, color in told.items() if color == BROWN).startswith("No signal yet: the network")


def test_what_cannot_be_judged_is_not(written):
    # A version that changes no pixel, one of which nothing can be said, and scores that are none.
    open_ = replace(example().versions[1], should_change=None)
    versions = (Version("original", face(), 4.0), Version("the same", face(), 4.0, True), open_)
    same = replace(example(), versions=versions, heat=None)
    lost = replace(example(), versions=(Version("original", face(), np.nan), *example().versions[1:]), heat=None)
    intervention_gallery(bias_result(examples=(same, lost)))
    told = colors(written)
    assert {"+0.00", "no score"} <= set(told)
    assert not {BLUE, BROWN} & set(told.values())


def test_evidence_in_the_region_is_counted_by_hand(written):
    # 1 against in the mouth, 3 for in the eyes: a quarter; the mouth is 72 of 1024 pixels.
    intervention_gallery(bias_result())
    assert {"25 %", "in mouth (7 % of area)"} <= set(colors(written))


def test_the_heat_map_is_signed_and_symmetric():
    heat = np.array([[-2.0, 0.0, 1.0, np.nan]])
    shown = _glow(np.full((1, 4, 3), 100, dtype=np.uint8), heat, 2.0)[0].tolist()
    assert shown[0] == [70, 150, 255]
    assert shown[1] == shown[3] == [45, 45, 45]
    assert shown[2] == [150, 50, 42]


def test_one_scale_for_all_rows(written):
    weak = replace(example(), heat=example().heat / 100)
    page = np.asarray(intervention_gallery(bias_result(examples=(example(), weak))))
    red = (page.astype(int) == (255, 56, 40)).all(-1)
    half = page.shape[0] // 2
    assert red[100:half].sum() > 100
    assert not red[half:].any()
    assert "+0.037  for it" in colors(written)


def test_the_region_is_outlined_in_the_original_and_the_heat_map_only():
    page = np.asarray(intervention_gallery(bias_result(), tile=64))
    columns = np.flatnonzero((page == YELLOW).all(-1).any(0))
    slots = {int((column - 16) // (64 + 14)) for column in columns}
    assert slots == {0, 3}
    rows = np.flatnonzero((page == YELLOW).all(-1).any(1))
    # Rows 20 to 25 of the mouth, twice as large, and the line around them.
    assert rows[-1] - rows[0] + 1 == 2 * 6 + 2


def test_pictures_stand_in_the_order_of_the_versions():
    page = np.asarray(intervention_gallery(bias_result(examples=(example(heat=None),)), tile=SIZE)).astype(int)
    top = np.flatnonzero((page == (40, 40, 200)).all(-1).any(1))[0] - 8
    for slot, version in enumerate(example().versions):
        left = 16 + slot * (SIZE + 14)
        tile = page[top : top + SIZE, left : left + SIZE]
        same = (tile == version.image).all(-1)
        assert same.mean() > (0.95 if slot == 0 else 0.999)


def test_the_header_names_target_region_and_contexts(written):
    intervention_gallery(bias_result())
    text = " ".join(words for words, _ in written)
    assert "lipstick: does the mouth decide it, or makeup (eyes), or blond (hair)?" in text
    assert "Changing the outlined mouth should change the score, changing anything else should not" in text


def test_rows_of_different_lengths_and_no_rows():
    short = replace(example(), versions=example().versions[:1], heat=np.zeros((SIZE, SIZE)))
    two = intervention_gallery(bias_result(examples=(example(), short)))
    none = intervention_gallery(bias_result(examples=(), contexts={}, signal={}))
    assert two.width == 2 * 16 + 4 * (160 + 14) - 14
    assert none.height < two.height / 4


def test_wide_pictures_keep_their_proportions():
    wide = np.zeros((10, 20, 3), dtype=np.uint8)
    one = replace(example(), versions=(Version("original", wide, 1.0),), heat=None, region=np.zeros((10, 20), bool))
    page = np.asarray(intervention_gallery(bias_result(examples=(one,)), tile=100))
    black = np.argwhere((page == 0).all(-1))
    assert (np.ptp(black, axis=0) + 1).tolist() == [50, 100]


def test_long_texts_are_wrapped_and_cut():
    assert _wrap("mouth of another face", 12, 10_000, 2) == ["mouth of another face"]
    assert len(_wrap("mouth of another face, the other label", 12, 160, 2)) == 2
    assert _wrap("x" * 500, 12, 160, 2)[0].endswith("x…")
    assert _wrap("", 12, 160, 2) == [""]


@pytest.mark.parametrize("matplotlib", [True, False])
def test_hostile_names_are_drawn(matplotlib, monkeypatch):
    monkeypatch.setattr(pictures, "available", lambda name: matplotlib)
    pictures.scalable_font.cache_clear()
    for name in HOSTILE:
        versions = tuple(replace(version, caption=name) for version in example().versions)
        made = bias_result(target=name, region=name, contexts={name: name}, examples=(example(versions=versions),))
        assert intervention_gallery(made, tile=40).width == 560
    pictures.scalable_font.cache_clear()
