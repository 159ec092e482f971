"""Backgrounds of the rendered faces: two rooms and four landscapes."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_interp.data.faces.canvas import NOTHING, Canvas, Film, mix, pattern, pick, ramp, rgb
from lightning_interp.data.faces.concepts import INDOOR, SCENES
from lightning_interp.data.faces.records import FaceRecords
from lightning_interp.data.faces.shapes import Frame, both, either, grid

CLOTH = (
    (200, 40, 45),
    (40, 85, 180),
    (45, 140, 70),
    (245, 205, 60),
    (235, 130, 35),
    (125, 65, 165),
    (240, 140, 180),
    (240, 240, 236),
    (32, 32, 38),
    (128, 128, 132),
    (120, 76, 46),
)
"""Colours of cloth and wallpaper, one for each of the eleven basic colour terms."""


def scene_of(records: FaceRecords) -> Tensor:
    """``(B,)`` int64, position in SCENES of each face's background."""
    values = records.values
    outdoor = len(INDOOR) + values["outdoor_scene"]
    return torch.where(values["outdoors"] == 1, outdoor, values["indoor_scene"])


def paint_backgrounds(surface: Tensor, records: FaceRecords) -> Film:
    """Paint each face's own background where nothing is in front of it.

    Args:
        surface: ``(B, S, S)`` uint8, what is in front; NOTHING becomes what the background shows, in place.
        records: The faces.
    """
    film = Film.blank(len(records), surface.shape[-1])
    scene = scene_of(records)
    for number, name in enumerate(SCENES):
        at = (scene == number).nonzero()[:, 0]
        canvas = Canvas(len(at), surface.shape[-1])
        _PAINTERS[name](canvas, Frame.image(len(at), surface.shape[-1]), records[at])
        surface[at] = torch.where(surface[at] == NOTHING, canvas.surface, surface[at])
        own = canvas.develop(surface[at], Film(film.image[at], film.weight[at]))
        film.image[at], film.weight[at] = own.image, own.weight
    return film


def second_colour(first: Tensor, offset: Tensor) -> Tensor:
    """Another position in CLOTH than the first, by an offset of 0 to 9."""
    return (first + 1 + offset) % len(CLOTH)


def _everywhere(frame: Frame) -> Tensor:
    return torch.full(frame.x.shape, -1.0)


def _room(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    values = records.values
    period = values["wall_period"][:, None, None]
    shade = values["wall_shade"][:, None, None]
    white = rgb(245, 242, 236)
    first = mix(pick(CLOTH, values["wall_colour"]), white, shade)
    other = second_colour(values["wall_colour"], values["wall_contrast"])
    second = mix(pick(CLOTH, other), white, shade * 0.6)
    share = pattern(frame.scaled(period), values["wall_texture"])
    canvas.paint(_everywhere(frame), mix(first, second, share), "wall")

    left = (values["scenery"] < 0.5).float()[:, None, None]
    at = frame.moved(0.86 - 0.72 * left, 0.26)
    canvas.paint(at.box(0.105, 0.14), rgb(110, 72, 40), "painting")
    canvas.paint(at.box(0.08, 0.115), ramp(((120, 170, 210), (230, 200, 150)), values["scenery"]))
    canvas.paint(both(at.moved(0.0, 0.03).peak(0.8), at.box(0.08, 0.115)), rgb(70, 110, 80))


def _kitchen(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    tile = ramp(((205, 222, 226), (226, 214, 190), (150, 190, 180)), records.values["scenery"])
    period = records.values["wall_period"][:, None, None]
    canvas.paint(_everywhere(frame), mix(tile, rgb(120, 124, 128), grid(frame.scaled(period))), "tiles")
    canvas.paint(frame.moved(0.5, 0.08).box(0.6, 0.1), rgb(150, 98, 55), "cabinet")
    for x in (0.0, 0.33, 0.67, 1.0):
        canvas.paint(frame.moved(x, 0.08).box(0.008, 0.1), rgb(95, 60, 34))


def _sky(canvas: Canvas, frame: Frame, top: Tensor, bottom: Tensor) -> None:
    canvas.paint(_everywhere(frame), mix(top, bottom, frame.y), "sky")


def _beach(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    place = records.values["scenery"][:, None, None]
    _sky(canvas, frame, rgb(70, 150, 225), rgb(205, 232, 248))
    side = (place < 0.5).float()
    canvas.paint(frame.moved(0.85 - 0.7 * side, 0.12 + 0.06 * place).ellipse(0.075, 0.075), rgb(255, 225, 90), "sun")
    horizon = 0.36 + 0.08 * place
    sea = mix(rgb(45, 150, 185), rgb(20, 95, 160), pattern(frame.scaled(place * 0 + 0.16), _lying(place)) * 0.5)
    canvas.paint(-frame.moved(0.0, horizon).above(), sea, "sea")
    shore = frame.moved(0.5, horizon + 0.28).rotated(torch.full_like(place, 0.08))
    canvas.paint(-shore.moved(0.0, -0.02).above(), rgb(240, 248, 250), "sea")
    canvas.paint(-shore.above(), rgb(232, 206, 150), "beach")


def _lying(like: Tensor) -> Tensor:
    """The zigzag texture for each face of a batch: waves."""
    return torch.full((len(like),), 5)


def _forest(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    place = records.values["scenery"][:, None, None]
    _sky(canvas, frame, rgb(170, 210, 235), rgb(215, 232, 225))
    canvas.paint(-frame.moved(0.0, 0.68).above(), rgb(96, 148, 62), "grass")
    for x, radius, green in ((0.02, 0.2, 84), (0.34, 0.15, 112), (0.68, 0.16, 98), (0.99, 0.21, 76)):
        trunk = frame.moved(x + 0.12 * (place - 0.5), 0.2)
        canvas.paint(trunk.moved(0.0, 0.3).box(0.035, 0.3), rgb(92, 62, 40), "trunk")
        crown = either(
            trunk.ellipse(radius, radius * 0.95),
            trunk.moved(-0.6 * radius, 0.45 * radius).ellipse(0.7 * radius, 0.6 * radius),
            trunk.moved(0.65 * radius, 0.4 * radius).ellipse(0.7 * radius, 0.6 * radius),
        )
        canvas.paint(crown, rgb(green // 3, green, green // 2), "leaves")


def _valley(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    place = records.values["scenery"][:, None, None]
    _sky(canvas, frame, rgb(95, 165, 235), rgb(225, 238, 250))
    for x, top, slope in ((0.12, 0.14, 1.5), (0.88, 0.2, 1.3), (0.5, 0.32, 1.0)):
        summit = frame.moved(x + 0.2 * (place - 0.5), top)
        canvas.paint(summit.peak(slope), rgb(122, 124, 136), "rock")
        canvas.paint(both(summit.peak(slope), summit.moved(0.0, 0.15).above()), rgb(246, 248, 252), "snow")
    canvas.paint(-frame.moved(0.0, 0.66).above(), rgb(120, 170, 80), "grass")


def _night(canvas: Canvas, frame: Frame, records: FaceRecords) -> None:
    place = records.values["scenery"][:, None, None]
    _sky(canvas, frame, rgb(14, 18, 48), rgb(50, 46, 96))
    side = (place < 0.5).float()
    moon = frame.moved(0.84 - 0.68 * side, 0.13 + 0.05 * place)
    canvas.paint(moon.ellipse(0.06, 0.06), rgb(250, 244, 205), "moon")
    towers, windows = [], []
    for x, half, top in ((0.03, 0.1, 0.34), (0.25, 0.09, 0.24), (0.75, 0.1, 0.3), (0.96, 0.09, 0.4)):
        house = frame.moved(x + 0.08 * (place - 0.5), top)
        towers.append(house.moved(0.0, 0.5).box(half, 0.5))
        # One window in each cell of a lattice that fits the house.
        cell = Frame(house.x.abs() - half / 2, (house.y / 0.11 - (house.y / 0.11).floor() - 0.5) * 0.11, house.unit)
        windows.append(both(cell.box(0.022, 0.03), towers[-1]))
    canvas.paint(either(*towers), rgb(34, 36, 58), "building")
    canvas.paint(either(*windows), rgb(248, 214, 110), "window")


_PAINTERS: dict[str, Callable[[Canvas, Frame, FaceRecords], None]] = {
    "room": _room,
    "kitchen": _kitchen,
    "beach": _beach,
    "forest": _forest,
    "valley": _valley,
    "night": _night,
}
