"""Faces from their parameter records, in batches: images, label planes and landmarks."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from lightning_interp.data.faces.canvas import Canvas
from lightning_interp.data.faces.concepts import (
    NUMBER,
    PLANE_TABLES,
    SCENES,
    SURFACE_ID,
    TEXTURES,
    colour_labels,
)
from lightning_interp.data.faces.layers import FaceFrames, paint_face
from lightning_interp.data.faces.records import FaceRecords
from lightning_interp.data.faces.scenes import paint_backgrounds, scene_of
from lightning_interp.data.faces.shapes import Frame
from lightning_interp.errors import DatasetError

MIN_SIZE = 32
# Pixels drawn at once: few enough for their planes to stay in the processor's cache.
_BATCH_PIXELS = 2**17
# Textured surfaces, and which choice of the record textures them.
_TEXTURE_OF = {"wall": "wall_texture", "shirt": "shirt_texture", "hat": "hat_texture"}


@dataclass(frozen=True)
class Rendering:
    """Pictures of B faces and what is on them.

    Args:
        images: ``(B, 3, S, S)`` uint8, RGB.
        planes: By category (object, part, material, texture, color), ``(B, P, S, S)`` uint8 label numbers, 0 where
            unlabelled. A pixel has the labels of the front-most surface that covers over half of it.
        scenes: ``(B,)`` int64, label number of the background.
        landmarks: ``(B, 5, 2)`` float32, x and y in pixels of the image (a pixel's centre has whole coordinates):
            left eye, right eye, nose, left and right mouth corner, where left is left on the picture (CelebA's order).
    """

    images: Tensor
    planes: Mapping[str, Tensor]
    scenes: Tensor
    landmarks: Tensor


def render(records: FaceRecords, do: Mapping[str, int] | None = None, *, size: int = 64) -> Rendering:
    """Draw faces, if need be with some attributes changed and nothing else.

    Each face depends on its own record alone, to the bit: not on the batch, the process or any global generator.

    Args:
        records: The faces, of a :class:`RenderedFaces` (its ``records``) or of :func:`draw_faces`.
        do: Attributes to set to 0 or 1 first. Pixels outside the attribute's own region (lips for lipstick, eyelids
            for makeup, hair for blond...) keep every bit.
        size: Height and width of the images, at least 32.

    Raises:
        DatasetError: If an attribute or its value is unknown, or the size is too small.
    """
    check_size(size)
    changed = records.do(do or {})
    batch = max(_BATCH_PIXELS // size**2, 1)
    batches = [changed[i : i + batch] for i in range(0, max(len(records), 1), batch)]
    # Whoever asks first, a validation loop in inference mode too, the pictures kept are ordinary tensors.
    with torch.inference_mode(False), _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(_render, batches, repeat(size)))
        return _joined(parts)


def _joined(parts: Sequence[Rendering]) -> Rendering:
    return Rendering(
        images=torch.cat([part.images for part in parts]),
        planes={category: torch.cat([part.planes[category] for part in parts]) for category in parts[0].planes},
        scenes=torch.cat([part.scenes for part in parts]),
        landmarks=torch.cat([part.landmarks for part in parts]),
    )


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Give the number of threads to use, and let every operation use one while the context lasts.

    A face takes a thousand short operations. Splitting each of them over the processor's cores makes them wait for
    each other, which on busy cores takes many times as long as the work; splitting the batches does not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def check_size(size: int) -> None:
    """Raise a ``DatasetError`` for images too small to show a face."""
    if size < MIN_SIZE:
        raise DatasetError(f"size {size} is too small for a face; give at least {MIN_SIZE}")


def _render(records: FaceRecords, size: int) -> Rendering:
    frames = FaceFrames.of(records, size)
    canvas = Canvas(len(records), size)
    paint_face(canvas, frames, records)
    film = canvas.develop(canvas.surface, paint_backgrounds(canvas.surface, records))
    images = _expose(film.image / film.weight, records)
    surface = canvas.surface.int()
    planes = {category: table[:, surface].transpose(0, 1) for category, table in PLANE_TABLES.items()}
    for name, choice in _TEXTURE_OF.items():
        numbers = torch.tensor([0, *(NUMBER[texture] for texture in TEXTURES)], dtype=torch.uint8)
        own = numbers[records.values[choice]][:, None, None, None]
        planes["texture"] = torch.where((surface == SURFACE_ID[name])[:, None], own, planes["texture"])
    planes["color"] = colour_labels(images)[:, None]
    numbers = torch.tensor([NUMBER[name] for name in SCENES])
    return Rendering(images, planes, numbers[scene_of(records)], frames.landmarks(records, size))


def _expose(image: Tensor, records: FaceRecords) -> Tensor:
    """Light and camera: gain falling off over the picture, colour cast, pixel noise; ``(B, 3, S, S)`` uint8."""
    values, size = records.values, image.shape[-1]
    frame = Frame.image(len(records), size)
    slope_x, slope_y = values["light_x"][:, None, None], values["light_y"][:, None, None]
    light = (1 + slope_x * (frame.x - 0.5) * 2) * (1 + slope_y * (frame.y - 0.5) * 2)
    light = light * values["gain"][:, None, None]
    warmth = values["warmth"]
    cast = torch.stack([1 + warmth, torch.ones_like(warmth), 1 - warmth], dim=1)[:, :, None, None]
    noise = torch.stack([_noise(seed, size) for seed in values["noise_seed"].tolist()]) if len(records) else image
    lit = image * light[:, None] * cast + noise * values["noise"][:, None, None, None]
    return (lit.clamp(0, 1) * 255).round().byte()


def _noise(seed: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((3, size, size), dtype=np.float32))
