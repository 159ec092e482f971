from dataclasses import replace

import numpy as np
import pytest

from lightning_interp.data.probe import Concept
from lightning_interp.drawing import pictures
from lightning_interp.drawing.pictures import to_picture
from lightning_interp.methods.dissection.figures.gallery import unit_gallery, unit_strip
from tests.helpers.results import HOSTILE, SIZE, DiscProbe, counted_layer, planted_layer

PROBE = DiscProbe()
LAYER = planted_layer(PROBE)


def image(index):
    return to_picture(PROBE.image(index))


def test_the_planted_unit_lights_its_concept_and_nothing_else():
    # Unit 0 follows the disc: inside the mask in full colour, the far corner darkened.
    halfway = replace(LAYER, thresholds=np.full(8, 0.5))
    strip = np.asarray(unit_strip(halfway, image, 0, (SIZE, SIZE), tile=SIZE))
    for slot, index in enumerate(LAYER.top.index[0]):
        tile = strip[:, slot * (SIZE + 4) : slot * (SIZE + 4) + SIZE]
        core = PROBE.distance(int(index)).numpy() < 4
        far = PROBE.distance(int(index)).numpy() > 20
        assert (tile[core] == image(int(index))[core]).all()
        assert (tile[far] == (image(int(index))[far] * 0.38).astype(np.uint8)).all()


def test_units_that_are_not_scored_and_empty_slots_are_grey():
    grey = np.array([0xE4, 0xE6, 0xEA])
    assert (np.asarray(unit_strip(LAYER, image, 7, (SIZE, SIZE), tile=20, columns=1)) == grey).all()
    index = LAYER.top.index.copy()
    index[0, 1:] = -1
    short = replace(LAYER, top=replace(LAYER.top, index=index))
    strip = np.asarray(unit_strip(short, image, 0, (SIZE, SIZE), tile=20))
    assert (strip[:, 24:44] == grey).all()
    assert not (strip[:, :20] == grey).all()


def test_tiles_keep_the_proportions_of_the_masks():
    assert unit_strip(counted_layer([[1, 0, 0, 0]], [[0] * 4]), image, 0, (16, 32), tile=64).size == (132, 32)


def test_the_same_unit_is_in_the_same_row_and_each_image_is_read_once():
    reads = []

    def counted(index):
        reads.append(index)
        return image(index)

    rows = [np.asarray(unit_gallery(LAYER, counted, units, (SIZE, SIZE), tile=40)) for units in [(0, 3), (3, 0)]]
    step = (rows[0].shape[0] - 42 - 6) // 2
    first, second = slice(42, 42 + step), slice(42 + step, 42 + 2 * step)
    assert (rows[0][first] == rows[1][second]).all()
    assert not (rows[0][first] == rows[0][second]).all()
    assert len(reads) == 2 * len(set(reads))


def test_titles_tell_detectors_from_others():
    sure = counted_layer([[50, 0, 0, 0]], [[0] * 4])
    doubtful = counted_layer([[50, 0, 0, 0]], [[60, 0, 0, 0]])
    pages = [np.asarray(unit_gallery(layer, image, [0], (SIZE, SIZE), tile=20)) for layer in (sure, doubtful)]
    blue = (0x00, 0x72, 0xB2)
    filled, hollow = [(page[42:68] == blue).all(-1).sum() for page in pages]
    assert filled > hollow > 0
    warning = (0xA8, 0x48, 0x0F)
    assert [(page == warning).all(-1).any() for page in pages] == [False, True]


@pytest.mark.parametrize("matplotlib", [True, False])
def test_hostile_names_are_drawn(matplotlib, monkeypatch):
    monkeypatch.setattr(pictures, "available", lambda name: matplotlib)
    pictures.scalable_font.cache_clear()
    for name in HOSTILE:
        layer = counted_layer([[50]], [[0]], [Concept(1, name, name)], name=name)
        page = unit_gallery(layer, image, [0], (SIZE, SIZE), tile=20)
        assert page.size[0] == 420
    pictures.scalable_font.cache_clear()
