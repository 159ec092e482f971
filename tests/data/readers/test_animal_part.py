"""The reader of the Animal-Part data: both layouts, what it refuses, and the real crops where they are."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_interp import _extras
from lightning_interp.data.readers import animal_part
from lightning_interp.data.readers.animal_part import AnimalPart
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.errors import DatasetError

REAL = Path(__file__).parents[4] / "shared/data/animal_part"
SMALL = {"size": (8, 8), "mask_size": (8, 8)}
TABLE = {
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "parts": [{"id": 1, "name": "head"}, {"id": 2, "name": "frontal_legs"}],
    "images": [
        {"id": 10, "file_name": "dog/1.png", "category_id": 7},
        {"id": 11, "file_name": "cat/1.png", "category_id": 3},
    ],
    "annotations": [
        {"image_id": 10, "part": "head", "bbox": [0, 0, 2, 1], "landmark": [1, 0.5]},
        {"image_id": 10, "part": "frontal_legs", "bbox": [1, 2, 2.0, 2], "landmark": [2, 3]},
        {"image_id": 11, "part": "head", "bbox": [0, 0, 1, 1], "landmark": [0.5, 0.5]},
        {"image_id": 11, "part": "head", "bbox": [2, 2, 1, 1], "landmark": [2.5, 2.5]},
    ],
}


@pytest.fixture
def root(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    write(tmp_path, TABLE)
    return tmp_path


def write(root, table):
    (root / "annotations.json").write_text(json.dumps(table))


def test_table_by_hand(root):
    probe = AnimalPart(root, **SMALL)
    assert probe.classes == ("cat", "dog")
    assert [(c.number, c.name, c.category) for c in probe.concepts] == [
        (1, "head", "part"),
        (2, "frontal_legs", "part"),
        (3, "cat", "object"),
        (4, "dog", "object"),
    ]
    item = probe[0]
    assert item.facts["attributes"] == {"category": 1}
    # 4 pixels become 8: continuous 1 is 2, and its pixel coordinate 1.5.
    assert item.facts["part_landmarks"] == {"head": (1.5, 0.5), "frontal_legs": (3.5, 5.5)}
    head, legs = item.labels.planes["part"]
    assert head.nonzero().tolist() == [[y, x] for y in (0, 1) for x in range(4)]
    assert legs.nonzero().tolist() == [[y, x] for y in range(4, 8) for x in range(2, 6)]
    assert (head.max(), legs.max()) == (1, 2)
    assert item.labels.image == {"object": (4,)}


def test_a_part_that_is_annotated_twice_has_no_landmark_but_two_boxes(root):
    item = AnimalPart(root, **SMALL)[1]
    assert item.facts["part_landmarks"] == {}
    assert item.labels.planes["part"].shape == (2, 8, 8)


def changed(path, value):
    """The table with one entry set to another value, or without it."""
    table = copy.deepcopy(TABLE)
    *way, last = path
    place = table
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("parts",), None, "'parts' is not a list of objects"),
        (("images",), [3], "'images' is not a list of objects"),
        (("categories", 1, "name"), "cat", "stands twice"),
        (("categories", 0, "id"), "3", "categories 1: 'id' is '3', not a whole number"),
        (("images", 1, "category_id"), 8, "images 2: no category 8"),
        (("images", 0, "file_name"), "../1.png", "are refused"),
        (("images", 0, "file_name"), "dog/2.png", r"dog/2\.png"),
        (("images", 0, "file_name"), " ", "images 1: 'file_name' is ' ', not text"),
        (("annotations", 2, "part"), "tail", "annotations 3: part 'tail'"),
        (("annotations", 2, "image_id"), 12, "annotations 3: .*image 12 is not in the table"),
        (("annotations", 0, "bbox"), [1, 2, 3], "annotations 1: 'bbox' .* not 4 finite numbers"),
        (("annotations", 0, "bbox"), [1, 2, 3, True], "not 4 finite numbers"),
        (("annotations", 0, "landmark"), [1, float("nan")], "annotations 1: 'landmark' .* not 2 finite numbers"),
        (("annotations", 0, "landmark"), "12", "not 2 finite numbers"),
    ],
)
def test_bad_entries_are_named(root, path, value, message):
    write(root, changed(path, value))
    with pytest.raises(DatasetError, match=message):
        AnimalPart(root, **SMALL)


def test_digests_are_checked(root):
    write_manifest(root)
    Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "dog/1.png")
    with pytest.raises(DatasetError, match="SHA-256"):
        AnimalPart(root, verify=True, **SMALL).image(0)


BOX = {"xmin": "3", "xmax": "6", "ymin": "0", "ymax": "8"}
EMPTY = {"pHW_center": np.zeros(0), "pHW_scale": np.zeros(0), "obj": np.zeros(0)}


def part(centre, scale, box=BOX):
    return {"pHW_center": np.array(centre), "pHW_scale": np.array(scale), "obj": {"bndbox": box}}


@pytest.fixture
def original(tmp_path):
    for wnid, count in (("n02084071", 3), ("n01443537", 1)):
        folder = tmp_path / f"{wnid}_obj/img/img"
        folder.mkdir(parents=True)
        (tmp_path / wnid).mkdir()
        for number in range(1, count + 1):
            Image.new("RGB", (10, 8)).save(folder / f"{number:05d}.jpg")
        (tmp_path / wnid / "truth_part01.mat").touch()
    (tmp_path / "n02084071/truth_part02.mat").touch()
    return tmp_path


def with_truth(monkeypatch, dog_heads, dog_legs=(), fish_heads=()):
    truth = {
        "n02084071/truth_part01": dog_heads,
        "n02084071/truth_part02": dog_legs,
        "n01443537/truth_part01": fish_heads,
    }
    monkeypatch.setattr(animal_part, "read_matlab", lambda path, name: list(truth[f"{path.parent.name}/{path.stem}"]))


def test_original_layout_by_hand(original, monkeypatch):
    """A box of columns 2...5 and rows 0...7 (from 0): 4 x 8 pixels, annotated on a frame of 224."""
    heads = [EMPTY, part([112.5, 112.5], [56, 112]), EMPTY]
    legs = [EMPTY, EMPTY, part([56.5, 56.5], [112, 112], BOX | {"xmin": "1", "xmax": "10"})]
    with_truth(monkeypatch, heads, legs, [part([1.0, 1.0], [9, 9])])
    probe = AnimalPart(original, size=(8, 4), mask_size=(8, 4))
    assert probe.classes == ("goldfish", "dog")
    assert [Path(each.photo).name for each in probe.objects] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert [each.category for each in probe.objects] == [0, 1, 1]
    assert probe.objects[1].box == (2, 0, 6, 8)
    item = probe[1]
    # The middle of the crop: continuous (2, 4) of 4 x 8.
    assert item.facts["part_landmarks"] == {"head": (1.5, 3.5)}
    # A quarter of the height and half of the width about it.
    assert item.labels.planes["part"][0].nonzero().tolist() == [[y, x] for y in (3, 4) for x in (1, 2)]
    third = probe[2]
    assert third.facts["part_landmarks"] == {"frontal_legs": (0.5, 1.5)}
    assert third.labels.planes["part"].max() == 2


def test_original_crops_with_several_animals_have_no_landmark(original, monkeypatch):
    double = part([[50.0, 150.0], [60.0, 160.0]], [[20, 20], [20, 20]])
    with_truth(monkeypatch, [double | {"obj": [{"bndbox": BOX}, {"bndbox": BOX}]}])
    probe = AnimalPart(original, **SMALL)
    assert len(probe) == 1
    assert probe.facts(0)["part_landmarks"] == {}
    assert len(probe.objects[0].part_boxes) == 2


@pytest.mark.parametrize(
    "broken", [{"obj": np.zeros(0)}, {"obj": {"bndbox": {"xmin": "x"}}}, {"pHW_scale": np.zeros(0)}, {"obj": {}}]
)
def test_malformed_records_are_named(original, monkeypatch, broken):
    with_truth(monkeypatch, [EMPTY, part([1.0, 1.0], [9, 9]) | broken])
    with pytest.raises(DatasetError, match="n02084071, object 2: malformed"):
        AnimalPart(original, **SMALL)


def test_missing_photos_and_empty_folders_are_named(original, monkeypatch, tmp_path_factory):
    with_truth(monkeypatch, [EMPTY] * 3 + [part([1.0, 1.0], [9, 9])])
    with pytest.raises(DatasetError, match=r"00004\.jpg"):
        AnimalPart(original, **SMALL)
    with pytest.raises(DatasetError, match=r"neither annotations\.json nor"):
        AnimalPart(tmp_path_factory.mktemp("empty"))


@pytest.mark.skipif(not _extras.available("scipy"), reason="SciPy writes the file")
def test_original_layout_from_a_file(original):
    import scipy.io

    heads = np.zeros(2, dtype=[(key, object) for key in ("pHW_center", "pHW_scale", "obj")])
    heads[0] = tuple(EMPTY.values())
    heads[1] = tuple(part([112.5, 112.5], [56, 112]).values())
    for path in original.glob("*/truth*.mat"):
        scipy.io.savemat(path, {"truth": heads if path.name == "truth_part01.mat" and "2084" in str(path) else EMPTY})
    probe = AnimalPart(original, size=(8, 4))
    assert len(probe) == 1
    assert probe.facts(0)["part_landmarks"] == {"head": (1.5, 3.5)}


@pytest.mark.skipif(not os.path.isdir(REAL), reason="the real crops are not here")
def test_real_crops():
    probe = AnimalPart(REAL)
    assert len(probe) == 357
    assert probe.classes == ("bird", "cat", "cow", "dog", "horse", "sheep")
    assert probe.landmark_names == ("frontal_legs", "head")
    counts = [sum(each.category == category for each in probe.objects) for category in range(6)]
    assert counts == [60, 60, 60, 60, 60, 57]
    for index in range(0, 357, 60):
        item = probe[index]
        assert item.image.shape == (3, 224, 224)
        for plane in item.labels.planes["part"]:
            x, y = item.facts["part_landmarks"][("head", "frontal_legs")[int(plane.max()) - 1]]
            assert plane[min(int(y / 2), 111), min(int(x / 2), 111)] > 0
    # The README's first bird: (192.71, 66.86) of 229 x 256.
    head = probe.facts(0)["part_landmarks"]["head"]
    assert head == pytest.approx((192.71 * 224 / 229 - 0.5, 66.86 * 224 / 256 - 0.5))
