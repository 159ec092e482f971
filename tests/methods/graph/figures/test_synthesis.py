"""Images beside what is drawn of them: every picture in its place, with its error."""

import numpy as np
import pytest
import torch

from lightning_interp.methods.graph.figures import synthesis as graph_synthesis
from lightning_interp.methods.graph.figures.synthesis import synthesis_gallery

TILE = 32


@pytest.fixture
def said(monkeypatch):
    """Every text that is drawn."""
    texts = []
    draw = graph_synthesis.ImageDraw.Draw

    def noting(page):
        pen = draw(page)
        text = pen.text
        pen.text = lambda place, words, **more: (texts.append(words), text(place, words, **more))
        return pen

    monkeypatch.setattr(graph_synthesis.ImageDraw, "Draw", noting)
    return texts


def flat(*levels, size=(16, 32)):
    """Images of one level each."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, *size)


def tiles(page):
    """By row and column, the level in the middle of each picture, in the order of the page."""
    pixels = np.asarray(page)
    return [
        [int(pixels[y, graph_synthesis._MARGIN + c * (TILE + graph_synthesis._GAP) + TILE // 2, 0]) for c in range(3)]
        for y in (page.height - graph_synthesis._CAPTION - 8, page.height - 2 * graph_synthesis._CAPTION - 24)
    ][::-1]


def test_pictures_stand_in_rows_by_image_and_in_columns_by_what_they_are_drawn_from():
    page = synthesis_gallery("conv", flat(0.2, 0.4), {"map": flat(0.6, 0.8), "zero": flat(-1.0, 2.0)}, tile=TILE)
    # Pixels are 51 times five levels; what leaves [0, 1] is cut, not stretched.
    assert tiles(page) == [[51, 153, 0], [102, 204, 255]]


def test_bytes_and_floats_are_shown_alike():
    drawn = {"map": flat(0.6, 0.8), "zero": flat(0.0, 1.0)}
    pages = [synthesis_gallery("conv", images, drawn, tile=TILE) for images in (flat(0.2, 0.4), flat(51, 102).byte())]
    assert np.array_equal(*map(np.asarray, pages))


def test_errors_stand_under_pictures_and_at_the_head_of_columns(said):
    synthesis_gallery("conv", flat(0.2, 0.4), {"map": flat(0.5, 0.0), "whole": flat(0.2, 0.4)}, tile=128)
    assert said == [
        *("conv: drawn from", "image", "map", "error 35.4 %", "30.0 %", "40.0 %"),
        *("whole", "error 0.0 %", "0.0 %", "0.0 %"),
    ]


def test_names_are_made_safe_and_wrapped(said):
    synthesis_gallery("conv\n\u202e1", flat(0.2), {"valid patterns\talone, 3 % of the activation": flat(0.2)}, tile=96)
    assert said[0] == "conv 1: drawn from"
    lines = said[2 : said.index("error 0.0 %")]
    assert len(lines) > 1
    assert " ".join(lines) == "valid patterns alone, 3 % of the activation"
