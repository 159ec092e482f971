"""The reader of CUB-200-2011: its layout, its crops, and what it refuses."""

import pytest
from PIL import Image

from lightning_interp.data.readers.cub200_parts import CUB200Parts
from lightning_interp.errors import DatasetError

SMALL = {"size": (8, 8), "mask_size": (4, 4)}
TABLES = {
    "images.txt": ["1 001.Albatross/a.jpg", "3 002.Auk/b.jpg", "4 002.Auk/c.jpg"],
    "classes.txt": ["1 001.Albatross", "2 002.Auk"],
    "image_class_labels.txt": ["1 1", "3 2", "4 2"],
    "train_test_split.txt": ["1 0", "3 1", "4 0"],
    "bounding_boxes.txt": ["1 2.0 1.0 4.0 4.0", "3 0.0 0.0 12.0 8.0", "4 1.0 1.0 2.0 2.0"],
    "parts/parts.txt": ["1 back", "7 left eye"],
    "parts/part_locs.txt": [
        "1 1 3.0 2.0 1",
        "1 7 0.0 0.0 0",
        "3 1 11.0 7.0 1",
        "3 7 2.5 3.0 1",
        "4 1 0.0 0.0 0",
        "4 7 9.0 7.0 1",
    ],
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "parts").mkdir()
    for name, rows in TABLES.items():
        write(tmp_path, name, rows)
    for row in TABLES["images.txt"]:
        path = tmp_path / "images" / row.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8)).save(path)
    return tmp_path


def write(root, name, rows):
    (root / name).write_text("\n".join(rows) + "\n")


def test_birds_are_cut_out_with_their_parts(root):
    probe = CUB200Parts(root, **SMALL)
    assert probe.classes == ("001.Albatross", "002.Auk")
    assert [each.box for each in probe.objects] == [(2, 1, 6, 5), (0, 0, 12, 8), (1, 1, 3, 3)]
    assert [probe.facts(i)["attributes"]["category"] for i in range(3)] == [0, 1, 1]
    # Of a box of 4 x 4 from (2, 1): (3 - 2 + 0.5) * 2 - 0.5.
    assert probe.facts(0)["part_landmarks"] == {"back": (2.5, 2.5)}
    assert sorted(probe.facts(1)["part_landmarks"]) == ["back", "left eye"]
    assert probe.facts(1)["part_landmarks"]["left eye"] == pytest.approx((3 * 8 / 12 - 0.5, 3.0))
    # Its only visible part lies outside the box.
    assert probe.facts(2)["part_landmarks"] == {}
    assert probe[2].image.shape == (3, 8, 8)
    assert probe[2].labels.image == {"object": (2,)}
    assert probe[2].labels.planes == {}


def test_whole_photos_need_no_boxes(root):
    (root / "bounding_boxes.txt").unlink()
    probe = CUB200Parts(root, crop=False, size=(8, 12), mask_size=(4, 4))
    assert probe.facts(0)["part_landmarks"] == {"back": (3.0, 2.0)}
    assert probe.facts(2)["part_landmarks"] == {"left eye": (9.0, 7.0)}


def test_split_and_parts_are_chosen(root):
    assert [each.photo for each in CUB200Parts(root, split="train", **SMALL).objects] == ["images/002.Auk/b.jpg"]
    test = CUB200Parts(root, split="test", parts=["left eye"], **SMALL)
    assert len(test) == 2
    assert test.landmark_names == ("left eye",)
    (root / "train_test_split.txt").unlink()
    assert len(CUB200Parts(root, **SMALL)) == 3
    with pytest.raises(DatasetError, match=r"unknown parts \['beak'\]; there are \['back', 'left eye'\]"):
        CUB200Parts(root, parts=["beak"], **SMALL)
    with pytest.raises(DatasetError, match="split must be"):
        CUB200Parts(root, split="val", **SMALL)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("images.txt", "3 002.Auk/b.jpg", "line 4, column 'image': 3 stands on line 2 already"),
        ("images.txt", "5 ../b.jpg", "5 is in no row of a table"),
        ("images.txt", "5", "line 4: 1 cells, expected image, file"),
        ("images.txt", "0 x", "line 4, column 'image': '0' is not a whole number"),
        ("image_class_labels.txt", "x 9", "line 4, column 'image': 'x' is not a whole number"),
        ("bounding_boxes.txt", "5 1 2 3", "line 4: 4 cells"),
        ("bounding_boxes.txt", "3 1 2 3 4", "stands on line 2 already"),
        ("parts/part_locs.txt", "4 9 1 1 1", "part_locs.txt, line 7, column 'part': 9 is not in parts.txt"),
        ("parts/part_locs.txt", "4 7 1 1 1", "line 7, column 'part': 'left eye' of image 4 stands twice"),
        ("parts/part_locs.txt", "4 1 nan 1 1", "line 7, column 'x': 'nan' is not a finite number"),
        ("parts/part_locs.txt", "4 1 x 1 1", "line 7, column 'x': 'x' is not a finite number"),
        ("parts/part_locs.txt", "4 1 1 1 yes", "line 7, column 'visible': 'yes' is not 0 or 1"),
        ("classes.txt", "\N{SUPERSCRIPT TWO} x", "line 3, column 'class'"),
    ],
)
def test_bad_rows_are_named(root, name, row, message):
    write(root, name, [*TABLES[name], row])
    with pytest.raises(DatasetError, match=message):
        CUB200Parts(root, **SMALL)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("image_class_labels.txt", ["1 1", "3 2", "4 3"], "labels.txt, line 3, column 'class': 3 is not in classes"),
        ("image_class_labels.txt", ["1 1", "3 2 2"], "line 2, column 'class': '2 2' is not a whole number"),
        ("image_class_labels.txt", ["1 1"], r"images\.txt, line 2, column 'image': 3 is in no row"),
        ("bounding_boxes.txt", [*TABLES["bounding_boxes.txt"][:2], "4 20 0 5 5"], r"c\.jpg: the box .* has no pixel"),
        ("bounding_boxes.txt", [*TABLES["bounding_boxes.txt"][:2], "4 inf 0 5 5"], "'inf' is not a finite number"),
        ("images.txt", ["1 ../a.jpg"], "are refused"),
        ("images.txt", [], "no image to probe"),
    ],
)
def test_bad_tables_are_named(root, name, rows, message):
    write(root, name, rows)
    with pytest.raises(DatasetError, match=message):
        CUB200Parts(root, **SMALL)


def test_unreadable_tables_are_named(root):
    (root / "classes.txt").write_bytes(b"1 a\n2 \xff\n")
    with pytest.raises(DatasetError, match=r"classes\.txt, line 2: 'utf-8'"):
        CUB200Parts(root, **SMALL)
    (root / "classes.txt").write_text("1 " + "a" * 2**21)
    with pytest.raises(DatasetError, match="line 1: longer than"):
        CUB200Parts(root, **SMALL)
    (root / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"classes\.txt"):
        CUB200Parts(root, **SMALL)
