"""The reader of a user's folder: its convention, its forms of classes.json, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.data.readers.folder import SegmentationFolder, read_classes
from lightning_interp.errors import DatasetError

CLASSES = {
    "unlabelled": 9,
    "extra": "ignored",
    "classes": [
        {"id": 1, "name": "face", "category": "object", "pixels": 12},
        {"id": 4, "name": "eye", "category": "part"},
        {"id": 300, "name": "skin", "category": "material"},
    ],
}
FACE = np.array([[0, 1, 1, 9], [1, 4, 1, 1]], dtype=np.uint8)
SMALL = {"size": (2, 4), "mask_size": (2, 4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images", "masks/object", "masks/material"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for name, level in (("b.jpg", 40), ("a.PNG", 20), ("c.jpeg", 60)):
        Image.new("RGB", (4, 2), (level,) * 3).save(tmp_path / "images" / name)
        Image.fromarray(FACE).save(tmp_path / "masks" / f"{name[0]}.png")
    (tmp_path / "images/.hidden.jpg").touch()
    (tmp_path / "images/notes.txt").touch()
    return tmp_path


def test_photos_in_order_of_their_names(root: Path) -> None:
    probe = SegmentationFolder(root, **SMALL)
    assert probe.photos == ("images/a.PNG", "images/b.jpg", "images/c.jpeg")
    assert [int(probe[i].image.float().mean()) for i in range(3)] == [20, 40, 60]
    assert probe.categories == ("object", "part", "material")
    assert probe.concepts[2] == Concept(300, "skin", "material")


def test_order_does_not_depend_on_the_suffix(root: Path) -> None:
    (root / "images/c.jpeg").rename(root / "images/a-b.jpeg")  # "-" sorts before "."
    (root / "masks/c.png").rename(root / "masks/a-b.png")
    assert SegmentationFolder(root).photos == ("images/a.PNG", "images/a-b.jpeg", "images/b.jpg")


def test_one_mask_is_split_by_category(root: Path) -> None:
    planes = SegmentationFolder(root, **SMALL)[0].labels.planes
    assert {category: plane.tolist() for category, plane in planes.items()} == {
        "object": [[[0, 1, 1, 0], [1, 0, 1, 1]]],
        "part": [[[0, 0, 0, 0], [0, 4, 0, 0]]],
    }
    assert planes["part"].dtype == torch.int32


def test_category_folders_add_planes(root: Path) -> None:
    full = np.full((2, 4), 1, dtype=np.uint8)
    Image.fromarray(full).save(root / "masks/object/a.png")
    Image.fromarray(np.array([[300, 300, 0, 1], [0, 0, 0, 0]], dtype=np.uint16)).save(root / "masks/material/a.png")
    planes = SegmentationFolder(root, **SMALL)[0].labels.planes
    assert planes["object"].tolist() == [[[0, 1, 1, 0], [1, 0, 1, 1]], full.tolist()]
    # In a category folder every number counts for that category: face is an object and a material here.
    assert planes["material"].tolist() == [[[300, 300, 0, 1], [0, 0, 0, 0]]]
    assert list(SegmentationFolder(root, **SMALL)[1].labels.planes) == ["object", "part"]


def test_a_category_folder_alone_is_enough(root: Path) -> None:
    (root / "masks/a.png").rename(root / "masks/object/a.png")
    planes = SegmentationFolder(root, **SMALL)[0].labels.planes
    assert {category: plane.tolist() for category, plane in planes.items()} == {
        "object": [[[0, 1, 1, 0], [1, 4, 1, 1]]]
    }


def test_sizes(root: Path) -> None:
    probe = SegmentationFolder(root, mask_size=(4, 2))
    assert probe[0].image.shape == (3, 224, 224)
    assert probe[0].labels.planes["object"].tolist() == [[[1, 0], [1, 0], [0, 1], [0, 1]]]
    assert SegmentationFolder(root).mask_size == (112, 112)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (["sky", "tree"], (Concept(1, "sky", "object"), Concept(2, "tree", "object"))),
        ([{"id": 7, "name": "sky"}], (Concept(7, "sky", "object"),)),
        ({"5": "sky", "2": "tree"}, (Concept(5, "sky", "object"), Concept(2, "tree", "object"))),
        ({"unlabelled": 0, "classes": {"5": "sky"}}, (Concept(5, "sky", "object"),)),
    ],
)
def test_forms_of_classes(tmp_path: Path, content: object, expected: tuple[Concept, ...]) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(content))
    assert read_classes(tmp_path / "classes.json") == (expected, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no class"),
        (3, "expected a list or an object"),
        ([5], "class 1: name and category must be text, not 5"),
        (["sky", "sky"], "class 2: id 2 or name 'sky' stands twice"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "class 2: id 1 or name 'b' stands twice"),
        ([{"id": 0, "name": "a"}], "class 1: id 0 is not"),
        ([{"id": 65_536, "name": "a"}], "class 1: id 65536 is not"),
        ([{"id": True, "name": "a"}], "class 1: id True is not"),
        ([{"id": 1.0, "name": "a"}], r"class 1: id 1\.0 is not"),
        ([{"name": "a"}], "class 1: id None is not"),
        ([{"id": 1, "name": " "}], "class 1: name and category must be text"),
        ([{"id": 1, "name": "a", "category": None}], "class 1: name and category must be text"),
        ({"-1": "sky"}, "key '-1': id '-1' is not"),
        ({"²": "sky"}, "key '²': id '²' is not"),
        ({"0": "background"}, "key '0': id 0 is not"),
        ({"classes": [{"id": 255, "name": "a"}], "unlabelled": 255}, "class 1: id 255 is not"),
        ({"classes": ["a"], "unlabelled": -1}, "'unlabelled' is -1"),
        ({"classes": ["a"], "unlabelled": [0]}, r"'unlabelled' is \[0\]"),
    ],
)
def test_bad_classes(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message) as caught:
        read_classes(tmp_path / "classes.json")
    assert "classes.json" in str(caught.value)


def test_bad_label_is_named_on_access(root: Path) -> None:
    Image.fromarray(np.where(FACE == 4, np.uint8(5), FACE)).save(root / "masks/b.png")
    probe = SegmentationFolder(root, **SMALL)
    with pytest.raises(DatasetError, match=r"masks/b\.png: label 5 at row 1, column 1 is not declared"):
        probe[1]
    Image.fromarray(FACE.T.copy()).save(root / "masks/b.png")
    with pytest.raises(DatasetError, match=r"masks/b\.png: size \(4, 2\) \(h, w\), expected \(2, 4\)"):
        probe[1]


def test_mask_of_wrong_size_or_kind_on_construction(root: Path) -> None:
    Image.fromarray(FACE.T.copy()).save(root / "masks/b.png")
    with pytest.raises(DatasetError, match=r"masks/b\.png: size \(4, 2\) \(h, w\), expected \(2, 4\)"):
        SegmentationFolder(root)
    Image.new("RGB", (4, 2)).save(root / "masks/b.png")
    with pytest.raises(DatasetError, match=r"masks/b\.png: mode RGB is not that of an index mask"):
        SegmentationFolder(root)


def test_missing_and_doubled_files(root: Path) -> None:
    (root / "masks/b.png").unlink()
    with pytest.raises(DatasetError, match=r"masks/b\.png: no mask for this photo"):
        SegmentationFolder(root)
    outside = root.parent / f"{root.name}_outside.png"
    Image.fromarray(FACE).save(outside)
    (root / "masks/b.png").symlink_to(outside)
    with pytest.raises(DatasetError, match=r"masks/b\.png: leaves the folder"):
        SegmentationFolder(root)
    (root / "images/b.png").touch()
    with pytest.raises(DatasetError, match="has the same stem"):
        SegmentationFolder(root)


def test_unknown_category_folder(root: Path) -> None:
    (root / "masks/texture").mkdir()
    with pytest.raises(DatasetError, match=r"masks/texture: no class has this category"):
        SegmentationFolder(root)


def test_missing_parts(root: Path) -> None:
    for photo in (root / "images").iterdir():
        photo.unlink()
    with pytest.raises(DatasetError, match="no image to probe"):
        SegmentationFolder(root)
    (root / "images").rmdir()
    with pytest.raises(DatasetError, match="images: No such file"):
        SegmentationFolder(root)
    (root / "classes.json").unlink()
    with pytest.raises(DatasetError, match=r"classes\.json: .*No such file"):
        SegmentationFolder(root)
    with pytest.raises(DatasetError, match="no such folder"):
        SegmentationFolder(root / "none")


def test_huge_photo(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.PNG: 8 pixels, more than max_pixels=7"):
        SegmentationFolder(root, max_pixels=7)


def test_verify(root: Path) -> None:
    write_manifest(root)
    probe = SegmentationFolder(root, verify=True, **SMALL)
    assert torch.equal(probe[1].image, SegmentationFolder(root, **SMALL)[1].image)
    Image.fromarray(FACE // 2).save(root / "masks/b.png")
    with pytest.raises(DatasetError, match=r"masks/b\.png: SHA-256"):
        probe[1]
