"""The adapters, over small folders laid out as torchvision expects the downloads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import OxfordIIITPet, VOCSegmentation

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.adapters import PetProbe, VOCProbe
from lightning_interp.errors import DatasetError

SMALL = {"size": (4, 8), "mask_size": (2, 4)}


def save_mask(path: Path, values: np.ndarray) -> None:
    mask = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    mask.putpalette([value * 7 % 256 for value in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


def save_photo(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2), (level,) * 3).save(path)


@pytest.fixture
def voc(tmp_path: Path) -> VOCSegmentation:
    base = tmp_path / "VOCdevkit/VOC2012"
    for position, name in enumerate(("2007_1", "2007_0")):
        save_photo(base / f"JPEGImages/{name}.jpg", 50 + 50 * position)
        save_mask(base / f"SegmentationClass/{name}.png", np.array([[0, 255, 15, 15], [20, 1, 255, position]]))
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/train.txt").write_text("2007_1\n2007_0\n")
    return VOCSegmentation(str(tmp_path), image_set="train", transform=lambda image: None)


@pytest.fixture
def pets(tmp_path: Path) -> OxfordIIITPet:
    base = tmp_path / "oxford-iiit-pet"
    lines = ("Birman_1 2 1 2", "Abyssinian_9 1 1 1", "beagle_3 3 2 1")
    for position, line in enumerate(lines):
        name = line.split()[0]
        save_photo(base / f"images/{name}.jpg", 50 * position)
        save_mask(base / f"annotations/trimaps/{name}.png", np.array([[1, 1, 2, 3], [3, 2, 2, 1]]))
    (base / "annotations/trainval.txt").write_text("\n".join(lines))
    return OxfordIIITPet(str(tmp_path))


def test_voc(voc: VOCSegmentation) -> None:
    probe = VOCProbe(voc, **SMALL)
    assert len(probe) == 2
    assert (probe.concepts[0], probe.concepts[14]) == (
        Concept(1, "aeroplane", "object"),
        Concept(15, "person", "object"),
    )
    assert (len(probe.concepts), probe.concepts[19].name) == (20, "tvmonitor")
    item = probe[1]
    assert torch.equal(item.image, torch.full((3, 4, 8), 100, dtype=torch.uint8))
    assert item.labels.planes["object"].tolist() == [[0, 0, 15, 15], [20, 1, 0, 1]]
    assert item.labels.image == {}


def test_voc_names_a_number_that_voc_does_not_have(voc: VOCSegmentation) -> None:
    save_mask(Path(voc.masks[0]), np.full((2, 4), 21))
    with pytest.raises(DatasetError, match=r"2007_1\.png: label 21 at row 0, column 0"):
        VOCProbe(voc)[0]


def test_voc_files_are_checked_on_construction(voc: VOCSegmentation) -> None:
    save_mask(Path(voc.masks[1]), np.zeros((4, 4)))
    with pytest.raises(DatasetError, match=r"2007_0\.png: size \(4, 4\) \(h, w\), expected \(2, 4\)"):
        VOCProbe(voc)
    with pytest.raises(DatasetError, match=r"2007_1\.jpg: 8 pixels, more than max_pixels=7"):
        VOCProbe(voc, max_pixels=7)
    Path(voc.masks[1]).unlink()
    with pytest.raises(DatasetError, match=r"2007_0\.png: .*No such file"):
        VOCProbe(voc)
    voc.images[0] = str(Path(voc.root).parent / "x.jpg")
    with pytest.raises(DatasetError, match=r"'\.\.' are refused"):
        VOCProbe(voc)


def test_pets(pets: OxfordIIITPet) -> None:
    probe = PetProbe(pets, **SMALL)
    assert probe.concepts == (
        Concept(1, "pet", "object"),
        Concept(2, "cat", "species"),
        Concept(3, "dog", "species"),
        Concept(4, "Abyssinian", "breed"),
        Concept(5, "Birman", "breed"),
        Concept(6, "Beagle", "breed"),
    )
    assert probe.categories == ("object", "breed", "species")
    assert [probe.labels(i).image for i in range(3)] == [
        {"species": (2,), "breed": (5,)},
        {"species": (2,), "breed": (4,)},
        {"species": (3,), "breed": (6,)},
    ]
    assert probe[2].labels.planes["object"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert int(probe[2].image[0, 0, 0]) == 100


def test_pets_name_a_value_that_trimaps_do_not_have(pets: OxfordIIITPet) -> None:
    probe = PetProbe(pets, **SMALL)
    save_mask(Path(pets._segs[0]), np.array([[1, 1, 1, 1], [1, 1, 4, 1]]))
    with pytest.raises(DatasetError, match=r"Birman_1\.png: label 4 at row 1, column 2"):
        probe[0]
