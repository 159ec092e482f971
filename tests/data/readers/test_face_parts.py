"""The reader of faces with part masks: its layout, its table, and what it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.face_parts import LANDMARKS, FacesWithParts
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.data.regions import PartRegions
from lightning_interp.errors import DatasetError

REAL = Path(__file__).parents[4] / "shared/data/faces"
NAMES = ["background", "skin", "l_eye", "r_eye", "u_lip", "l_lip", "left_ear"]
MASK = np.array([[0, 1, 2, 3], [1, 4, 5, 6]], dtype=np.uint8)
HEADER = f"image,mask,{','.join(LANDMARKS)},age,redness,Smiling,note"
POINTS = "1,0,2,0,1.5,0.5,1,1,2,1"
ROWS = (
    f"a.png,a_parts.png,{POINTS},31,5.5,1,x",
    f"b.png,b_parts.png,{',' * 9},,-2,0,y",
    f"c.png,c_parts.png,{POINTS},4,,,",
)
SMALL = {"size": (2, 4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for level, name in enumerate("abc"):
        Image.new("RGB", (4, 2), (10 * level,) * 3).save(tmp_path / f"images/{name}.png")
        Image.fromarray(MASK).save(tmp_path / f"masks/{name}_parts.png")
    (tmp_path / "meta.json").write_text(json.dumps({"mask_classes": NAMES}))
    write(tmp_path, ROWS)
    return tmp_path


def write(root: Path, rows: tuple[str, ...], header: str = HEADER) -> None:
    (root / "faces.csv").write_text("\n".join((header, *rows)) + "\n")


def test_photos_are_the_rows(root):
    write(root, (ROWS[2], ROWS[0]))
    probe = FacesWithParts(root, **SMALL)
    assert len(probe) == 2
    assert [int(probe[i].image.float().mean()) for i in range(2)] == [20, 0]
    assert probe.image(0).shape == (3, 2, 4)
    assert probe.mask_size == (2, 4)


def test_left_and_right_are_one_part_but_the_lower_lip_is_no_left_lip(root):
    probe = FacesWithParts(root, **SMALL)
    assert probe.concepts == (
        Concept(1, "skin", "part"),
        Concept(2, "eye", "part"),
        Concept(4, "u_lip", "part"),
        Concept(5, "l_lip", "part"),
        Concept(6, "left_ear", "part"),
    )
    labels = probe.labels(0)
    assert {category: plane.tolist() for category, plane in labels.planes.items()} == {
        "part": [[0, 1, 2, 2], [1, 4, 5, 6]]
    }
    assert labels.planes["part"].dtype == torch.int32
    assert PartRegions(probe, dilate=0)(probe[0])["mouth"].tolist() == [[False] * 4, [False, True, True, False]]


def test_attributes_are_the_columns_of_whole_numbers(root):
    probe = FacesWithParts(root, **SMALL)
    assert [probe.facts(i)["attributes"] for i in range(3)] == [
        {"age": 31, "Smiling": 1},
        {"Smiling": 0},
        {"age": 4},
    ]


def test_thresholds_make_attributes_of_measurements(root):
    probe = FacesWithParts(root, attributes={"lipstick": ("redness", 5.5), "red": ("redness", -2.5)}, **SMALL)
    own = [{k: v for k, v in probe.facts(i)["attributes"].items() if k in ("lipstick", "red")} for i in range(3)]
    assert own == [{"lipstick": 0, "red": 1}, {"lipstick": 0, "red": 1}, {}]


def test_landmarks_move_with_the_photo(root):
    probe = FacesWithParts(root, **SMALL)
    assert probe.facts(0)["landmarks"].tolist() == [[1, 0], [2, 0], [1.5, 0.5], [1, 1], [2, 1]]
    assert "landmarks" not in probe.facts(1)
    twice = FacesWithParts(root, size=(4, 8))
    # Pixel centres have whole coordinates: 1 becomes (1 + 0.5) * 2 - 0.5.
    assert twice.facts(0)["landmarks"][0].tolist() == [2.5, 0.5]
    assert twice.labels(0).planes["part"].shape == (4, 8)


def test_crop_and_mask_size_reach_every_part_of_an_item(root):
    item = FacesWithParts(root, size=(2, 2), crop=(2, 2), mask_size=(4, 4))[0]
    assert item.image.shape == (3, 2, 2)
    assert item.labels.planes["part"].tolist() == [[1, 1, 2, 2]] * 2 + [[4, 4, 5, 5]] * 2
    assert item.facts["landmarks"][0].tolist() == [0, 0]


def test_mask_and_landmark_columns_may_be_missing(root):
    for name in "abc":
        (root / f"masks/{name}_parts.png").rename(root / f"masks/{name}.png")
    write(root, ("b.png,1", "c.png,2"), "image,group")
    probe = FacesWithParts(root, **SMALL)
    assert [dict(probe.facts(i)) for i in range(2)] == [{"attributes": {"group": 1}}, {"attributes": {"group": 2}}]
    assert probe.labels(1).planes["part"].any()


def test_names_as_an_argument_come_first_then_classes_json(root):
    classes = [{"id": n, "name": f"p{n}", "category": "object" if n == 1 else "part"} for n in range(1, 6)]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "unlabelled": 6}))
    probe = FacesWithParts(root, **SMALL)
    assert {category: plane.tolist() for category, plane in probe.labels(0).planes.items()} == {
        "object": [[0, 1, 0, 0], [1, 0, 0, 0]],
        "part": [[0, 0, 2, 3], [0, 4, 5, 0]],
    }
    given = FacesWithParts(root, classes=["none", "a", "b", "c", "d", "e", "f"], **SMALL)
    assert [concept.name for concept in given.concepts] == list("abcdef")


def test_description_is_json_and_tells_sets_apart(root):
    sets = [
        FacesWithParts(root, **SMALL),
        FacesWithParts(root, size=(4, 4)),
        FacesWithParts(root, attributes={"red": ("redness", 1.0)}, **SMALL),
        FacesWithParts(root, attributes={"red": ("redness", 2.0)}, **SMALL),
        FacesWithParts(root, classes=list("abcdefg"), **SMALL),
    ]
    assert len({json.dumps(probe.describe()) for probe in sets}) == 5
    assert len({probe.fingerprint() for probe in sets}) == 5


def test_digests_are_checked(root):
    write_manifest(root)
    assert FacesWithParts(root, verify=True, **SMALL)[0].image.shape == (3, 2, 4)
    Image.fromarray(MASK[::-1].copy()).save(root / "masks/a_parts.png")
    with pytest.raises(DatasetError, match="SHA-256"):
        FacesWithParts(root, verify=True, **SMALL).labels(0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,a_parts.png", "line 2: 2 cells under 16 columns"),
        (f",a_parts.png,{POINTS},1,1,1,", "line 2, column 'image': empty"),
        (f"a.png,,{POINTS},1,1,1,", "line 2, column 'mask': empty"),
        (f"../a.png,a_parts.png,{POINTS},1,1,1,", r"line 2, column 'image': .*'\.\.' are refused"),
        (f"/etc/passwd,a_parts.png,{POINTS},1,1,1,", "absolute paths"),
        (f"d.png,a_parts.png,{POINTS},1,1,1,", "line 2, column 'image': .*d.png"),
        (f"a.png,../images/a.png,{POINTS},1,1,1,", "line 2, column 'mask'"),
        (f"a.png,d.png,{POINTS},1,1,1,", "line 2, column 'mask': .*d.png"),
        (f"c.png,c_parts.png,{POINTS},1,1,1,", "line 4, column 'image': 'c.png' stands on line 2"),
        ("a.png,a_parts.png,x,0,2,0,1,1,1,1,2,1,1,1,1,", "line 2, column 'lefteye_x': 'x' is not a finite number"),
        ("a.png,a_parts.png,inf,0,2,0,1,1,1,1,2,1,1,1,1,", "'inf' is not a finite number"),
        ("a.png,a_parts.png,1,0,2,,1,1,1,1,2,1,1,1,1,", "line 2, column 'righteye_y': empty"),
        ("a.png,a_parts.png,1,0,4,0,1,1,1,1,2,1,1,1,1,", "line 2, column 'righteye_x': outside the photo"),
        ("a.png,a_parts.png,1,0,2,0,1,1,1,1,2,-0.6,1,1,1,", "line 2, column 'rightmouth_y': outside the photo"),
    ],
)
def test_bad_rows_are_named(root, row, message):
    write(root, (row, ROWS[1], ROWS[2]))
    with pytest.raises(DatasetError, match=message):
        FacesWithParts(root, **SMALL)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("photo,mask", r"line 1: the header lacks \['image'\]"),
        ("image,mask,image", "stands twice"),
        ("image,mask,lefteye_x", "some landmarks but not .*'lefteye_y'"),
        ("image,mask", "no face"),
    ],
)
def test_bad_headers_are_named(root, header, message):
    write(root, () if header == "image,mask" else (",".join(["a.png"] * (header.count(",") + 1)),), header)
    with pytest.raises(DatasetError, match=message):
        FacesWithParts(root, **SMALL)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"lipstick": ("rednes", 1.0)}, "did you mean 'redness'"),
        ({"lipstick": ("note", 1.0)}, "line 2, column 'note': 'x' is not a finite number"),
    ],
)
def test_bad_thresholds_are_named(root, attributes, message):
    with pytest.raises(DatasetError, match=message):
        FacesWithParts(root, attributes=attributes, **SMALL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "meta.json, 'mask_classes': expected a list"),
        ("{}", "expected a list"),
        ('{"mask_classes": ["background"]}', "expected a list"),
        ('{"mask_classes": "background"}', "expected a list"),
        ('{"mask_classes": ["background", 3]}', "'3' is no name"),
        ('{"mask_classes": ["background", " "]}', "is no name"),
        ('{"mask_classes": ["background", "skin", "skin"]}', "'skin' is no name or stands twice"),
        ("{", "meta.json, line 1"),
    ],
)
def test_bad_names_of_parts_are_named(root, content, message):
    (root / "meta.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        FacesWithParts(root, **SMALL)
    with pytest.raises(DatasetError, match="classes: expected a list"):
        FacesWithParts(root, classes="skin", **SMALL)


def test_missing_files_and_folders_are_named(root):
    with pytest.raises(DatasetError, match="no such folder"):
        FacesWithParts(root / "nowhere")
    with pytest.raises(DatasetError, match=r"other\.csv"):
        FacesWithParts(root, table="other.csv")
    (root / "meta.json").unlink()
    with pytest.raises(DatasetError, match=r"meta\.json"):
        FacesWithParts(root)


def test_masks_that_do_not_fit_are_named(root):
    Image.fromarray(MASK[:, :3].copy()).save(root / "masks/b_parts.png")
    with pytest.raises(DatasetError, match=r"line 3, column 'mask': .*b_parts.png"):
        FacesWithParts(root, **SMALL)
    Image.new("RGB", (4, 2)).save(root / "masks/b_parts.png")
    with pytest.raises(DatasetError, match=r"line 3, column 'mask': .*index mask"):
        FacesWithParts(root, **SMALL)


def test_a_value_that_is_no_part_is_named(root):
    Image.fromarray(MASK + np.uint8(1)).save(root / "masks/a_parts.png")
    with pytest.raises(DatasetError, match=r"a_parts.png: label 7 at row 1, column 3"):
        FacesWithParts(root, **SMALL).labels(0)


def test_links_out_of_the_folder_and_huge_photos_are_refused(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    (root / "images/a.png").rename(outside)
    (root / "images/a.png").symlink_to(outside)
    with pytest.raises(DatasetError, match=r"line 2, column 'image': .*leaves the folder"):
        FacesWithParts(root, **SMALL)
    (root / "images/a.png").unlink()
    Image.new("1", (5000, 5000)).save(root / "images/a.png")
    with pytest.raises(DatasetError, match=r"a\.png: 25000000 pixels"):
        FacesWithParts(root, max_pixels=1_000_000, **SMALL)


CELL = st.sampled_from(
    ["", " ", "1", "0.5", "-1", "nan", "1e999", "²", "9" * 5000, "a.png", "a_parts.png", "../a.png", '"', "\0", "é"]
)


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(CELL, min_size=16, max_size=16))
def test_any_row_opens_or_is_refused_by_its_line(root, cells):
    write(root, (",".join(cells),))
    try:
        FacesWithParts(root, attributes={"red": ("redness", 0.0)}, **SMALL)[0]
        outcome = "opened"
    except DatasetError as error:
        outcome = str(error)
    assert "faces.csv, line 2" in outcome or outcome == "opened"


@pytest.mark.skipif(not os.path.isdir(REAL), reason="the real faces are not here")
def test_real_faces():
    probe = FacesWithParts(REAL, size=(64, 64), attributes={"lipstick": ("lip_redness", 13.0)})
    assert len(probe) == 772
    names = [concept.name for concept in probe.concepts]
    assert names[:6] == ["skin", "nose", "eye_g", "eye", "brow", "ear"]
    number = {concept.name: concept.number for concept in probe.concepts}
    for index in range(0, 772, 40):
        item = probe[index]
        x, y = item.facts["landmarks"].round().long().T
        part = item.labels.planes["part"]
        # The eyes' landmarks are centroids of their masks.
        for eye in (0, 1):
            near = part[y[eye] - 2 : y[eye] + 3, x[eye] - 2 : x[eye] + 3]
            assert torch.isin(near, torch.tensor([number["eye"], number["eye_g"]])).any()
        assert item.facts["attributes"]["lipstick"] in (0, 1)
