"""The gallery of filters: marks where peaks and landmarks are."""

import numpy as np
import pytest
import torch

from lightning_interp.methods.parts.engine import measure_parts
from lightning_interp.methods.parts.figures.gallery import filter_gallery
from lightning_interp.methods.parts.figures.table import filter_summaries, steadiest
from tests.helpers.parts import SIDE, SpotProbe, spot_model

PROBE = SpotProbe(20)
YELLOW, BLUE = (255, 226, 64), (0, 180, 255)
TILE = 8 * SIDE


@pytest.fixture(scope="module")
def page():
    result = measure_parts(spot_model(), PROBE, ["0"], landmarks=["red"])
    chosen = steadiest(filter_summaries(result, result["0"]), 3)
    black = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pictures = {"landmarks": lambda i: {"red": PROBE.places(i)["red"]}, "images": lambda i: black}
    drawn = filter_gallery(result["0"], chosen, pictures["images"], pictures["landmarks"], (SIDE, SIDE), tile=TILE)
    return np.asarray(drawn), chosen


def places(pixels, color):
    """Centre (x, y) of the pixels of one colour."""
    rows, columns = np.nonzero((pixels == np.array(color)).all(2))
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


def tiles(page, row):
    top = 62 + row * (24 + TILE + 8) + 24
    return [page[top : top + TILE, x : x + TILE] for x in range(12, 12 + 7 * (TILE + 4), TILE + 4)]


def test_marks_are_where_peaks_and_landmarks_are(page):
    pixels, chosen = page
    assert chosen[0].filter == 0
    for image, tile in enumerate(tiles(pixels, 0)):
        x, y = PROBE.places(image)["red"]
        # Eight pixels a pixel, and its centre between the fourth and the fifth.
        expected = (8 * x + 3.5, 8 * y + 3.5)
        assert places(tile, YELLOW) == pytest.approx(expected, abs=1)
        assert places(tile, BLUE) == pytest.approx(expected, abs=1.5)


def test_peaks_of_a_filter_that_never_moves(page):
    pixels, chosen = page
    row = [each.filter for each in chosen].index(2)
    assert len({places(tile, YELLOW) for tile in tiles(pixels, row)}) == 1


def test_empty_slots_are_grey(page):
    result = measure_parts(spot_model(), SpotProbe(3), ["0"])
    layer = result["0"]
    black = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    dead = filter_summaries(result, layer)[3]
    assert (layer.top.image[3] == -1).all()
    drawn = np.asarray(filter_gallery(layer, [dead], lambda i: black, lambda i: {}, (SIDE, SIDE)))
    assert torch.tensor(drawn[62 + 24 + 5, 20]).tolist() == [228, 230, 234]
