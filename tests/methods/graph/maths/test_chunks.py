"""Pieces within a budget give what one piece gives."""

import pytest
import torch

from lightning_interp.methods.graph.maths import chunks
from lightning_interp.methods.graph.maths.chunks import explain_all, take_all
from lightning_interp.methods.graph.maths.mixture import explain, take
from tests.methods.graph.maths.test_mixture import case


@pytest.mark.parametrize("budget", [1, 5_000, 40_000, 2**30])
def test_pieces_give_what_the_whole_gives(budget):
    maps, patterns, units = case(images=7, filters=5)
    for own, other in zip(
        explain_all(maps, patterns, units, 0.1, budget), explain(maps, patterns, units, 0.1), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-14)
    for own, other in zip(take_all(maps, patterns, units, 0.1, budget), take(maps, patterns, units, 0.1), strict=True):
        assert torch.equal(own, other)


def test_pieces_are_within_the_budget(monkeypatch):
    seen = []
    monkeypatch.setattr(chunks, "take", lambda maps, *rest: seen.append(maps.shape[:2].numel()) or take(maps, *rest))
    maps, patterns, units = case(images=7, filters=5)
    one = 2 * 4 * 5 * 7 * 8
    take_all(maps, patterns, units, 0.1, byte_budget=3 * one)
    assert max(seen) == 3
    assert sum(seen) == 35


def test_no_image_is_no_piece():
    maps, patterns, units = case(images=2)
    none = patterns.images(slice(0, 0))
    assert explain_all(maps[:0], none, units, 0.1).mass.shape == (0, 3, 4)
    assert take_all(maps[:0], none, units, 0.1).cell.shape == (0, 3, 4)
