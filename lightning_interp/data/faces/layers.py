"""A face and what it wears, layer by layer. Lengths are in half head heights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.data.faces.canvas import Canvas, mix, pattern, pick, ramp, rgb
from lightning_interp.data.faces.records import FaceRecords
from lightning_interp.data.faces.scenes import CLOTH, second_colour
from lightning_interp.data.faces.shapes import Frame, both, either

_SKIN = ((255, 226, 208), (243, 200, 170), (222, 170, 134), (188, 128, 92), (138, 88, 60), (92, 58, 40))
_HAIR = ((28, 24, 26), (62, 40, 28), (104, 64, 38), (142, 62, 32), (150, 150, 154))
_BLOND = ((250, 232, 172), (232, 196, 106), (212, 168, 92))
_IRIS = ((88, 54, 30), (60, 110, 170), (70, 128, 82), (120, 130, 138), (40, 28, 24))
_LIPSTICK = ((205, 20, 40), (210, 20, 110), (120, 10, 60))
_MAKEUP = ((40, 80, 205), (120, 50, 185), (20, 140, 160))
_METAL = ((198, 160, 70), (176, 180, 188), (120, 124, 132), (188, 138, 110))
_PLASTIC = ((24, 24, 28), (112, 58, 34), (150, 24, 38), (30, 50, 110))
# How far the parts of the inner face shift when the head turns, as multiples of "yaw".
_EYE_DEPTH, _NOSE_DEPTH, _MOUTH_DEPTH = 1.0, 1.4, 1.1


@dataclass(frozen=True)
class FaceFrames:
    """Coordinates of each face of a batch.

    Args:
        head: Origin amid the face, turned with the head.
        body: The same, upright.
    """

    head: Frame
    body: Frame

    @classmethod
    def of(cls, records: FaceRecords, size: int) -> "FaceFrames":
        """The frames of each face on pictures of ``size`` pixels."""
        at = _column(records)
        centred = Frame.image(len(records), size).moved(at["centre_x"], at["centre_y"])
        return cls(centred.rotated(at["roll"]).scaled(at["scale"]), centred.scaled(at["scale"]))

    def landmarks(self, records: FaceRecords, size: int) -> Tensor:
        """``(B, 5, 2)`` float32 in pixels; see :class:`~lightning_interp.data.faces.render.Rendering`."""
        v = records.values
        yaw = v["yaw"]
        half, _, lift = _mouth(v)
        mouth_y = v["mouth_y"] - lift
        points = (
            (yaw * _EYE_DEPTH - v["eye_gap"], v["eye_y"]),
            (yaw * _EYE_DEPTH + v["eye_gap"], v["eye_y"]),
            (yaw * _NOSE_DEPTH, v["nose_y"]),
            (yaw * _MOUTH_DEPTH - half, mouth_y),
            (yaw * _MOUTH_DEPTH + half, mouth_y),
        )
        x, y = (torch.stack(axis, dim=1) for axis in zip(*points, strict=True))
        sine, scale = v["roll"][:, None], v["scale"][:, None]
        cosine = (1 - sine * sine).sqrt()
        on_image = (
            v["centre_x"][:, None] + scale * (x * cosine - y * sine),
            v["centre_y"][:, None] + scale * (y * cosine + x * sine),
        )
        return torch.stack(on_image, dim=2) * size - 0.5


def paint_face(canvas: Canvas, frames: FaceFrames, records: FaceRecords) -> None:
    """Paint the person of each record over the background."""
    at = _column(records)
    skin = ramp(_SKIN, records.values["skin_tone"])
    hair = _hair_colour(frames.head, records)
    _hair_behind(canvas, frames.head, at, hair)
    _neck_and_shirt(canvas, frames.body, records, skin)
    _head(canvas, frames.head, at, skin)
    _nose(canvas, frames.head, at, skin)
    _mouth_layers(canvas, frames.head, records, skin)
    for side in (-1, 1):
        _eye(canvas, frames.head.moved(at["yaw"] * _EYE_DEPTH + side * at["eye_gap"], at["eye_y"]), side, records, skin)
    _hair_in_front(canvas, frames.head, at, hair)
    _glasses(canvas, frames.head, records)
    _hat(canvas, frames.head, records)


def _column(records: FaceRecords) -> dict[str, Tensor]:
    return {name: value[:, None, None] for name, value in records.values.items()}


def _hair_colour(head: Frame, records: FaceRecords) -> Tensor:
    """Strands that run down from the parting, in two tones of the hair's colour."""
    values = records.values
    blond = values["blond"].float()[:, None, None]
    base = mix(pick(_HAIR, values["hair_colour"]), ramp(_BLOND, values["blond_shade"]), blond)
    fan = (head.x - values["parting"][:, None, None]) / (head.y + 2.6)
    strands = pattern(Frame(fan * 14, head.y, head.unit * 5), torch.ones_like(values["blond"]))
    return base * (1.06 - 0.26 * strands)[:, None]


def _hair_behind(canvas: Canvas, head: Frame, at: dict[str, Tensor], hair: Tensor) -> None:
    half, bottom = at["face_width"] + at["hair_volume"], at["hair_bottom"]
    skull = both(head.moved(0.0, -0.12).ellipse(half, 0.95 + at["hair_volume"]), head.moved(0.0, 0.1).above())
    fall = head.moved(0.0, (bottom - 0.5) / 2).box(half * 0.97, (bottom + 0.5) / 2, corner=0.18)
    canvas.paint(either(skull, fall), hair * 0.8, "hair")


def _neck_and_shirt(canvas: Canvas, body: Frame, records: FaceRecords, skin: Tensor) -> None:
    values, at = records.values, _column(records)
    canvas.paint(body.moved(0.0, 0.5).capsule(0.0, 1.1, 0.36), skin * 0.84, "neck")
    first = pick(CLOTH, values["shirt_colour"])
    second = pick(CLOTH, second_colour(values["shirt_colour"], values["shirt_contrast"]))
    cloth = mix(first, second, pattern(body.scaled(at["shirt_period"]), values["shirt_texture"]))
    canvas.paint(body.moved(0.0, 2.5).ellipse(1.75, 1.2), cloth, "shirt")
    canvas.paint(body.moved(0.0, 1.27).ellipse(0.44, 0.24), skin * 0.84, "neck")


def _head(canvas: Canvas, head: Frame, at: dict[str, Tensor], skin: Tensor) -> None:
    for side in (-1, 1):
        ear = head.moved(side * at["face_width"] - 0.3 * at["yaw"], 0.08)
        canvas.paint(ear.ellipse(0.15, 0.24), skin * 0.9, "ear")
        canvas.paint(ear.ellipse(0.07, 0.14), skin * 0.76)
    tapered = Frame(head.x / (1 - at["jaw"] * head.y.clamp(-1, 1)), head.y, head.unit)
    edge = (tapered.x / at["face_width"]) * (tapered.x / at["face_width"]) + head.y * head.y
    shaded = skin * (1.03 - 0.13 * edge.clamp(0, 1))[:, None]
    canvas.paint(tapered.ellipse(at["face_width"], 1.0), shaded, "skin")
    for side in (-1, 1):
        cheek = head.moved(at["yaw"] + side * 0.46, 0.34)
        glow = (1 - (cheek.x * cheek.x + cheek.y * cheek.y) * 14).clamp(min=0) * 0.22
        canvas.blend(glow, skin * rgb(255, 165, 160))


def _nose(canvas: Canvas, head: Frame, at: dict[str, Tensor], skin: Tensor) -> None:
    nose = head.moved(at["yaw"] * _NOSE_DEPTH, at["nose_y"])
    root = nose.moved(-0.4 * at["yaw"], -0.3)
    tip = nose.moved(0.0, -0.02).ellipse(at["nose_width"] * 1.25, 0.11)
    canvas.paint(either(root.capsule(0.4 * at["yaw"], 0.25, at["nose_width"] * 0.62), tip), skin * 0.86, "nose")
    canvas.paint(root.moved(0.02, 0.0).capsule(0.4 * at["yaw"], 0.22, at["nose_width"] * 0.36), skin * 1.06)
    for side in (-1, 1):
        canvas.paint(nose.moved(side * at["nose_width"] * 0.62, 0.035).ellipse(0.04, 0.028), skin * 0.5)


def _mouth(v: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Half width, curvature and the height by which its corners are lifted, of each mouth."""
    smile = v["smile"].float()
    half = v["mouth_width"] * (1 + smile * (v["smile_width"] - 1))
    curve = v["mouth_curve"] * (1 - smile) + v["smile_curve"] * smile
    return half, curve, curve * half * half * 0.5


def _mouth_layers(canvas: Canvas, head: Frame, records: FaceRecords, skin: Tensor) -> None:
    values, at = records.values, _column(records)
    half, curve, lift = _mouth(at)
    straight = head.moved(at["yaw"] * _MOUTH_DEPTH, at["mouth_y"])
    x, smile = straight.x, at["smile"].float()
    # A parabola through both corners; a unit of the bent frame is shorter where the parabola is steep.
    steep = (2 * curve * x).clamp(-1, 1)
    bent = Frame(x, straight.y + curve * x * x - lift, straight.unit / (1 + steep * steep).sqrt())
    natural = mix(skin * rgb(225, 160, 155), rgb(190, 60, 70), at["lip_red"])
    lips = mix(natural, ramp(_LIPSTICK, values["lipstick_hue"]), at["lipstick"] * at["lipstick_strength"])
    upper = (bent.y < 0).float() * 0.12
    canvas.paint(bent.ellipse(half, at["lip_height"] + 0.025 * smile), lips * (1 - upper)[:, None], "lip")
    canvas.paint(bent.moved(-half * 0.85, 0.0).capsule(half * 1.7, 0.0, 0.018), lips * 0.55, "lip")
    opening = bent.ellipse(half * 0.8, at["lip_height"] * 0.62)
    canvas.paint(opening, rgb(92, 24, 30), "mouth", on=values["smile"])
    teeth = both(opening, bent.moved(0.0, 0.03).above())
    canvas.paint(teeth, rgb(250, 248, 242), "teeth", on=values["smile"])


def _eye(canvas: Canvas, eye: Frame, side: int, records: FaceRecords, skin: Tensor) -> None:
    values, at = records.values, _column(records)
    width, height = at["eye_width"], at["eye_width"] * at["eye_open"]
    shadow = mix(skin * 0.82, ramp(_MAKEUP, values["makeup_hue"]), at["makeup"] * at["makeup_strength"])
    canvas.paint(both(eye.moved(0.0, 0.02).ellipse(width + 0.07, 0.24), eye.above()), shadow, "eyelid")
    canvas.paint(eye.moved(0.0, -0.018).ellipse(width + 0.012, height + 0.012), rgb(40, 28, 26), "eye")
    white = eye.ellipse(width, height)
    canvas.paint(white, rgb(246, 246, 244), "eye")
    gaze = eye.moved(at["gaze"], 0.0)
    canvas.paint(both(gaze.ellipse(height * 0.92, height * 0.92), white), pick(_IRIS, values["iris_colour"]), "iris")
    canvas.paint(both(gaze.ellipse(height * 0.45, height * 0.45), white), rgb(12, 10, 10))
    canvas.paint(gaze.moved(-0.035, -0.035).ellipse(0.022, 0.022), rgb(255, 255, 255))
    # The inner end of a brow lies towards the nose; a positive tilt raises the outer end.
    brow = eye.moved(-side * 0.2, -at["brow_gap"] + at["brow_tilt"])
    shade = mix(pick(_HAIR, values["hair_colour"]), skin, 0.2) * 0.8
    arch = either(
        brow.capsule(side * 0.24, -0.05 - at["brow_tilt"], at["brow_thickness"]),
        brow.moved(side * 0.24, -0.05 - at["brow_tilt"]).capsule(side * 0.2, 0.04, at["brow_thickness"] * 0.85),
    )
    canvas.paint(arch, shade, "eyebrow")


def _hair_in_front(canvas: Canvas, head: Frame, at: dict[str, Tensor], hair: Tensor) -> None:
    volume = at["hair_volume"]
    skull = head.moved(0.0, -0.12).ellipse(at["face_width"] + volume, 0.95 + volume)
    forehead = head.moved(at["parting"] * 0.35 + at["yaw"] * 0.8, 0.42).ellipse(at["face_width"] * 0.9, 1.06)
    end = -0.1 + 0.45 * (at["hair_bottom"] - 0.5).clamp(min=0)
    canvas.paint(both(skull, -forehead, head.moved(0.0, end).above()), hair, "hair")


def _glasses(canvas: Canvas, head: Frame, records: FaceRecords) -> None:
    values, at = records.values, _column(records)
    middle = head.moved(at["yaw"] * 1.1, at["eye_y"])
    lenses = []
    for side in (-1, 1):
        lens = middle.moved(side * (at["eye_gap"] + 0.01), 0.0)
        outline = torch.where(at["glasses_round"] == 1, lens.ellipse(0.32, 0.3), lens.box(0.32, 0.26, corner=0.1))
        lenses.append(outline.abs() - (0.042 * head.unit).clamp(min=0.6))
        hinge = middle.moved(side * (at["eye_gap"] + 0.31), -0.06)
        lenses.append(hinge.capsule(side * (at["face_width"] - at["eye_gap"] - 0.3) + 0.01, 0.0, 0.04))
    bridge = middle.moved(0.04 - at["eye_gap"] + 0.28, -0.05).capsule(2 * at["eye_gap"] - 0.64, 0.0, 0.04)
    frame = either(*lenses, bridge)
    metal = values["glasses_metal"]
    canvas.paint(frame, pick(_METAL, values["glasses_colour"]), "metal glasses", on=values["glasses"] * metal)
    canvas.paint(frame, pick(_PLASTIC, values["glasses_colour"]), "plastic glasses", on=values["glasses"] * (1 - metal))


def _hat(canvas: Canvas, head: Frame, records: FaceRecords) -> None:
    values, at = records.values, _column(records)
    half = at["face_width"] + at["hair_volume"] + 0.08
    first = pick(CLOTH, values["hat_colour"])
    second = pick(CLOTH, second_colour(values["hat_colour"], values["hat_contrast"]))
    cloth = mix(first, second, pattern(head.scaled(at["shirt_period"]), values["hat_texture"]))
    dome = both(head.moved(0.0, -0.52).ellipse(half, 0.98), head.moved(0.0, -0.5).above())
    canvas.paint(dome, cloth, "hat", on=values["hat"])
    band = head.moved(0.0, -0.6).box(half, 0.1, corner=0.06)
    canvas.paint(band, mix(first, second, 0.5) * 0.75, "hat", on=values["hat"])
    brim = head.moved(0.0, -0.53).ellipse(half + 0.4, 0.1)
    canvas.paint(brim, mix(first, second, 0.5) * 0.6, "hat", on=values["hat"] * values["hat_brim"])
