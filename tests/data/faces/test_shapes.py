import math

import pytest
import torch

from lightning_interp.data.faces.shapes import Frame, both, chequered, cover, dotted, either, grid, striped, zigzagged


def centred(size: int = 64) -> Frame:
    return Frame.image(1, size).moved(0.5, 0.5)


def test_pixel_centres_of_the_image_frame():
    frame = Frame.image(2, 4)
    assert frame.x[1, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert frame.y[1, :, 3].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert frame.unit.flatten().tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("distance", "area"),
    [
        (centred().ellipse(0.25, 0.25), math.pi * 16 * 16),
        (centred().ellipse(0.4, 0.15), math.pi * 25.6 * 9.6),
        (centred().box(0.26, 0.13), 33.28 * 16.64),
        (centred().box(0.25, 0.125, corner=0.125), 32 * 16 - (4 - math.pi) * 8 * 8),
        (centred().capsule(0.25, 0.0, 0.1), 16 * 12.8 + math.pi * 6.4 * 6.4),
        (both(centred().peak(1.0), centred().moved(0.0, 0.25).above()), 16 * 16),
        (either(centred().box(0.1, 0.1), centred().moved(0.3, 0.0).box(0.1, 0.1)), 2 * 12.8 * 12.8),
    ],
)
def test_covered_area_is_the_shape_s_with_soft_edges(distance, area):
    share = cover(distance)
    assert share.sum().item() == pytest.approx(area, rel=0.02)
    assert ((share > 0.05) & (share < 0.95)).any()


def test_ellipse_is_filled_at_a_pixel_centre_on_its_own_centre():
    assert cover(Frame.image(1, 5).moved(0.5, 0.5).ellipse(0.3, 0.2))[0, 2, 2] == 1


def test_clockwise_rotation():
    # The x axis of a frame turned clockwise by 90 degrees (nearly) points down on the picture.
    turned = centred().rotated(torch.full((1, 1, 1), 0.999999))
    assert cover(turned.moved(0.3, 0.0).ellipse(0.1, 0.1))[0, 51, 32] == 1


@pytest.mark.parametrize(
    ("pattern", "share"),
    [(striped, 0.5), (dotted, math.pi * 0.09), (chequered, 0.5), (grid, 0.36), (zigzagged, 0.5)],
)
def test_patterns_cover_their_share_and_repeat(pattern, share):
    frame = Frame.image(1, 96).scaled(torch.full((1, 1, 1), 1 / 6))
    drawn = pattern(frame)
    assert drawn.mean().item() == pytest.approx(share, abs=0.03)
    assert drawn.min() == 0
    assert drawn.max() == 1
    assert pattern(frame.moved(10.0, 1.0)).sub(drawn).abs().max() < 1e-3
