"""The reader of PASCAL-Part: merged parts, landmarks, crops, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from lightning_interp import _extras
from lightning_interp.data.readers import voc_parts
from lightning_interp.data.readers.voc_parts import VOCParts
from lightning_interp.errors import DatasetError

SIZES = {"size": (8, 16), "mask_size": (4, 8), "min_area": 1}


def mask(rows, columns):
    """A mask of 8 x 12 (h, w), true in a rectangle of first and last rows and columns."""
    values = np.zeros((8, 12), dtype=np.uint8)
    values[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
    return values


def found(name, box, **parts):
    return {
        "class": name,
        "mask": mask(*box),
        "parts": [{"part_name": part, "mask": mask(*where)} for part, where in parts.items()],
    }


# The dog: rows 2...5, columns 4...11, cut out it is 4 x 8.
DOG = found(
    "dog",
    ((2, 5), (4, 11)),
    head=((2, 3), (4, 6)),
    lear=((2, 2), (4, 4)),
    neck=((2, 3), (7, 7)),
    torso=((3, 4), (8, 10)),
    lfpa=((5, 5), (8, 8)),
    rbleg=((5, 5), (10, 10)),
    tail=((2, 2), (11, 11)),
)
PERSON = found("person", ((0, 7), (0, 11)), head=((0, 0), (0, 0)))
COW = found("cow", ((0, 1), (0, 3)), tail=((0, 0), (0, 0)), torso=((1, 1), (1, 2)))


@pytest.fixture
def content(monkeypatch):
    """What the annotation files hold."""
    held = {"a": {"objects": [PERSON, DOG]}, "b": {"objects": COW}}
    monkeypatch.setattr(voc_parts, "read_matlab", lambda path, name: held[path.stem])
    return held


@pytest.fixture
def root(tmp_path, content):
    for folder in ("Annotations_Part", "JPEGImages"):
        (tmp_path / folder).mkdir()
    for name in content:
        (tmp_path / f"Annotations_Part/{name}.mat").touch()
        Image.new("RGB", (12, 8)).save(tmp_path / f"JPEGImages/{name}.jpg")
    return tmp_path


def test_animals_are_cut_out_of_their_photos(root):
    probe = VOCParts(root, **SIZES)
    assert [(each.photo, each.category, each.box) for each in probe.objects] == [
        ("JPEGImages/a.jpg", 3, (4, 2, 12, 6)),
        ("JPEGImages/b.jpg", 2, (0, 0, 4, 2)),
    ]
    assert probe.image(0).shape == (3, 8, 16)
    assert [c.name for c in probe.concepts if c.category == "object"] == ["bird", "cat", "cow", "dog", "horse", "sheep"]
    assert probe.facts(0)["attributes"] == {"category": 3}


def test_landmarks_are_the_centres_of_the_parts_boxes(root):
    probe = VOCParts(root, **SIZES)
    # The head: columns 4...6 of 4...11 and rows 2...3 of 2...5, each pixel doubled.
    assert probe.facts(0)["part_landmarks"] == {"head": (2.5, 1.5), "neck": (6.5, 1.5), "torso": (10.5, 3.5)}
    assert sorted(probe.facts(1)["part_landmarks"]) == ["torso"]
    chosen = VOCParts(root, landmarks=["tail"], **SIZES)
    assert chosen.landmark_names == ("tail",)


def test_parts_are_merged_as_published(root):
    """1 head, 2 torso, 3 a bird's legs, 4 front legs, 5 back legs, 6 tail."""
    probe = VOCParts(root, **SIZES)
    planes = probe.labels(0).planes
    assert planes["part"].tolist() == [
        [1, 1, 1, 2, 0, 0, 0, 6],
        [1, 1, 1, 2, 2, 2, 2, 0],
        [0, 0, 0, 0, 2, 2, 2, 0],
        [0, 0, 0, 0, 4, 0, 5, 0],
    ]
    assert planes["object"].unique().tolist() == [10]
    assert [c.name for c in probe.concepts if c.number == 10] == ["dog"]
    assert probe.labels(0).image == {}
    # The published merging has no tail of cows.
    assert probe.labels(1).planes["part"].unique().tolist() == [0, 2]


def test_only_the_named_photos_and_large_animals(root):
    assert len(VOCParts(root, photos=["b"], **SIZES)) == 1
    assert [each.category for each in VOCParts(root, **SIZES | {"min_area": 9}).objects] == [3]
    with pytest.raises(DatasetError, match="no image to probe"):
        VOCParts(root, **SIZES | {"min_area": 33})
    with pytest.raises(DatasetError, match=r"c\.mat"):
        VOCParts(root, photos=["c"], **SIZES)


def test_animals_and_parts_without_a_pixel_do_not_count(root, content):
    content["b"] = {"objects": [DOG | {"mask": np.zeros((8, 12))}]}
    parts = [{"part_name": "head", "mask": np.zeros((8, 12))}]
    content["a"] = {"objects": DOG | {"parts": parts}}
    probe = VOCParts(root, **SIZES)
    assert len(probe) == 1
    assert probe.facts(0)["part_landmarks"] == {}


@pytest.mark.parametrize(
    "broken",
    [
        {"objects": [{"class": "dog"}]},
        {"objects": DOG | {"mask": np.ones(3)}},
        {"objects": DOG | {"parts": {"part_name": "head", "mask": np.ones((2, 2))}}},
        {"imname": "a"},
        np.zeros(0),
    ],
)
def test_malformed_annotations_are_named(root, content, broken):
    content["a"] = broken
    with pytest.raises(DatasetError, match=r"a\.mat: malformed"):
        VOCParts(root, **SIZES)


def test_masks_that_do_not_fit_and_missing_folders_are_named(root, tmp_path_factory):
    Image.new("RGB", (12, 9)).save(root / "JPEGImages/b.jpg")
    with pytest.raises(DatasetError, match=r"b\.mat: masks of \(8, 12\) \(h, w\) for a photo of \(9, 12\)"):
        VOCParts(root, **SIZES)
    with pytest.raises(DatasetError, match="Annotations_Part"):
        VOCParts(tmp_path_factory.mktemp("empty"))


@pytest.mark.skipif(not _extras.available("scipy"), reason="SciPy writes the file")
def test_published_files(root, content, monkeypatch):
    import scipy.io

    monkeypatch.undo()
    for name, held in content.items():
        scipy.io.savemat(root / f"Annotations_Part/{name}.mat", {"anno": held}, do_compression=True)
    probe = VOCParts(root, **SIZES)
    assert len(probe) == 2
    assert probe.facts(0)["part_landmarks"] == {"head": (2.5, 1.5), "neck": (6.5, 1.5), "torso": (10.5, 3.5)}
    assert probe.labels(0).planes["part"][1].tolist() == [1, 1, 1, 2, 2, 2, 2, 0]
