"""The readers of CelebA and CelebAMask-HQ on tiny copies of their layouts, hostile ones included."""

import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.celeba import CelebA, CelebAMaskHQ
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.data.regions import default_regions
from lightning_interp.errors import DatasetError
from lightning_interp.methods.dissection.engine import dissect
from tests.helpers.models import small_cnn

# fmt: off
NAMES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
POINTS = [f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"]
POINT_ROW = [69, 109, 106, 113, 77, 142, 73, 152, 108, 154]
FILES = [f"{n:06d}.jpg" for n in range(1, 7)]
SPLITS = dict(zip(FILES, "000122", strict=True))


def attribute_values(number: int, names: Sequence[str] = NAMES) -> dict[str, int]:
    """Attributes of face ``number``: 1 or -1, different for each face and name."""
    return {name: random.Random(f"{number} {name}").choice([-1, 1]) for name in names}


def text_table(rows: Mapping[str, Sequence[object]], names: Sequence[str], count: object, gap: str = " ") -> str:
    """A table as published: a count, names with a trailing blank, values right-aligned by further blanks."""
    lines = [gap.join([key, *(f"{value!s:>2}" for value in row)]) for key, row in rows.items()]
    return "\n".join([str(count), " ".join(names) + " ", *lines]) + "\n"


def csv_table(rows: Mapping[str, Sequence[object]], names: Sequence[str]) -> str:
    return "\r\n".join(",".join(map(str, row)) for row in [("image_id", *names), *((k, *r) for k, r in rows.items())])


def attributes(files: Sequence[str] = FILES) -> dict[str, list[int]]:
    return {name: list(attribute_values(i).values()) for i, name in enumerate(files, start=1)}


def landmarks() -> dict[str, list[int]]:
    return {name: [value + i for value in POINT_ROW] for i, name in enumerate(FILES)}


def write_photos(folder: Path, files: Sequence[str] = FILES) -> None:
    folder.mkdir(parents=True)
    for i, name in enumerate(files, start=1):
        Image.new("RGB", (178, 218), (20 * i,) * 3).save(folder / name)


@pytest.fixture(params=["torchvision", "text", "csv", "nested csv", "authors"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    form = request.param
    images = {"torchvision": "celeba/img_align_celeba", "authors": "Img/img_align_celeba"}
    images["nested csv"] = "img_align_celeba/img_align_celeba"
    write_photos(tmp_path / images.get(form, "img_align_celeba"))
    tables = tmp_path / {"torchvision": "celeba", "authors": "Anno"}.get(form, ".")
    splits = tmp_path / "Eval" if form == "authors" else tables
    for folder in (tables, splits):
        folder.mkdir(exist_ok=True)
    if "csv" in form:
        (tables / "list_attr_celeba.csv").write_text(csv_table(attributes(), NAMES))
        (tables / "list_landmarks_align_celeba.csv").write_text(csv_table(landmarks(), POINTS))
        (splits / "list_eval_partition.csv").write_text(csv_table(SPLITS, ["partition"]))
    else:
        (tables / "list_attr_celeba.txt").write_text(text_table(attributes(), NAMES, 202599))
        (tables / "list_landmarks_align_celeba.txt").write_text(text_table(landmarks(), POINTS, 202599, "  "))
        (splits / "list_eval_partition.txt").write_text("\n".join(f"{k} {v}" for k, v in SPLITS.items()))
    return tmp_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "img_align_celeba")
    (tmp_path / "list_attr_celeba.txt").write_text(text_table(attributes(), NAMES, 6))
    return tmp_path


def test_every_layout_reads_the_same(layout: Path) -> None:
    probe = CelebA(layout, size=(218, 178))
    assert len(probe) == 6
    assert [concept.name for concept in probe.concepts] == list(NAMES)
    assert probe.concepts[36] == Concept(37, "Wearing_Lipstick", "attribute")
    for i in range(6):
        facts = probe.facts(i)
        assert facts["attributes"] == {name: int(v == 1) for name, v in attribute_values(i + 1).items()}
        assert facts["landmarks"].tolist() == (torch.tensor(POINT_ROW).view(5, 2) + i).tolist()
        assert facts["landmarks"].dtype == torch.float32
        assert int(probe.image(i).float().mean()) == 20 * (i + 1)
    members = {split: CelebA(layout, split=split).photos for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {split: [Path(name).name for name in names] for split, names in members.items()} == {
        "train": FILES[:3],
        "val": FILES[3:4],
        "test": FILES[4:],
    }


def test_attributes_are_image_level_concepts(root: Path) -> None:
    probe = CelebA(root)
    labels = probe.labels(2)
    on = [n for n, value in enumerate(attribute_values(3).values(), start=1) if value == 1]
    assert (labels.planes, labels.image) == ({}, {"attribute": on})


def test_columns_are_found_by_name(root: Path) -> None:
    order = random.Random(0).sample(NAMES, len(NAMES))
    rows = {name: [attribute_values(i)[column] for column in order] for i, name in enumerate(FILES, start=1)}
    (root / "list_attr_celeba.txt").write_text(text_table(rows, order, 6))
    points = POINTS[::-1]
    (root / "list_landmarks_align_celeba.csv").write_text(csv_table({FILES[1]: POINT_ROW[::-1]}, points))
    probe = CelebA(root, size=(218, 178))
    assert [concept.name for concept in probe.concepts] == order
    on = {concept.name for concept in probe.concepts if concept.number in probe.labels(1).image["attribute"]}
    assert on == {name for name, value in attribute_values(2).items() if value == 1}
    assert probe.facts(1)["attributes"] == {name: int(v == 1) for name, v in attribute_values(2).items()}
    assert probe.facts(1)["landmarks"].tolist() == torch.tensor(POINT_ROW).view(5, 2).tolist()
    assert "landmarks" not in probe.facts(0)


def test_a_part_of_the_data_opens(root: Path) -> None:
    for name in (FILES[0], FILES[4]):
        (root / "img_align_celeba" / name).unlink()
    write_photos(root / "more", ["999999.jpg"])
    (root / "more/999999.jpg").rename(root / "img_align_celeba/999999.jpg")  # a photo without a row
    probe = CelebA(root)
    assert [Path(name).name for name in probe.photos] == [FILES[i] for i in (1, 2, 3, 5)]
    assert probe.facts(0)["attributes"]["Wearing_Lipstick"] == int(attribute_values(2)["Wearing_Lipstick"] == 1)
    assert set(probe.facts(0)) == {"attributes"}


def test_regions_by_landmarks_that_the_first_photo_lacks(root: Path) -> None:
    rows = {name: points for name, points in landmarks().items() if name != FILES[0]}
    (root / "list_landmarks_align_celeba.txt").write_text(text_table(rows, POINTS, 5))
    probe = CelebA(root)
    assert "landmarks" not in probe.facts(0)
    assert "mouth" in default_regions(probe).names


def test_a_table_of_one_attribute(root: Path) -> None:
    values = {name: [1 if i % 2 else -1] for i, name in enumerate(FILES)}
    (root / "list_attr_celeba.txt").write_text(text_table(values, ["Smiling"], 6))
    assert [CelebA(root).facts(i)["attributes"] for i in range(2)] == [{"Smiling": 0}, {"Smiling": 1}]


def test_landmarks_follow_crop_and_scale(root: Path) -> None:
    (root / "list_landmarks_align_celeba.txt").write_text(text_table(landmarks(), POINTS, 6))
    photo = np.zeros((218, 178, 3), dtype=np.uint8)
    for x, y in np.array(POINT_ROW).reshape(5, 2):
        photo[y - 1 : y + 2, x - 1 : x + 2] = 255
    Image.fromarray(photo).save(root / "img_align_celeba" / FILES[0], quality=100)
    probe = CelebA(root, crop=(178, 178), size=(356, 356))
    bright = probe.image(0).float().mean(0)
    points = probe.facts(0)["landmarks"]
    assert points[0].tolist() == [2 * 69 + 0.5, 2 * (109 - 20) + 0.5]
    for x, y in points.long().tolist():
        patch = bright[y - 6 : y + 8, x - 6 : x + 8]
        at = (patch > 128).nonzero().float().mean(0)
        # The patch begins 6.5 pixels before the landmark, whose coordinates end in a half.
        assert at.tolist() == pytest.approx([6.5, 6.5], abs=0.3)


def test_whatever_the_default_type(root: Path) -> None:
    (root / "list_landmarks_align_celeba.txt").write_text(text_table(landmarks(), POINTS, 6))
    torch.set_default_dtype(torch.float64)
    try:
        assert CelebA(root).facts(0)["landmarks"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_can_be_dissected(root: Path) -> None:
    result = dissect(small_cnn(), CelebA(root, size=(16, 16), mask_size=(8, 8)), layers=["0"])
    assert result.num_images == 6
    assert result["0"].tallies.concept_area.tolist() == [
        64 * sum(attribute_values(i)[name] == 1 for i in range(1, 7)) for name in NAMES
    ]


def bad_attributes(row: str) -> str:
    return text_table(attributes(), NAMES, 6) + row + "\n"


LONG = " 1" * 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bad_attributes("000001.jpg" + " 1" * 39), "line 9: 40 cells under 41 columns"),
        (bad_attributes("000001.jpg" + " 1" * 41), "line 9: 42 cells under 41 columns"),
        (bad_attributes("000001.jpg" + LONG), "line 9, column 'image_id': '000001.jpg' stands twice"),
        (bad_attributes("../000001.jpg" + LONG), "line 9, column 'image_id': '../000001.jpg' is not the plain name"),
        (bad_attributes("/etc/passwd" + LONG), "'/etc/passwd' is not the plain name"),
        (bad_attributes("." + LONG), "'.' is not the plain name"),
        (text_table({FILES[0]: [2] * 40}, NAMES, 1), "line 3, column '5_o_Clock_Shadow': '2' is not 1, -1 or 0"),
        (text_table({FILES[0]: ["nan"] * 40}, NAMES, 1), "column '5_o_Clock_Shadow': 'nan' is not"),
        (text_table(attributes(), [*NAMES[:39], "Male"], 6), "a column stands twice in the header"),
        (text_table(attributes(), NAMES[:39], 6), "line 3: 41 cells under 40 columns"),
        # The names' line is missing: the first row becomes the header.
        ("6\n" + "".join(f"{k} {' '.join(map(str, v))}\n" for k, v in attributes().items()), "a column stands twice"),
        ("", "no row with an attribute"),
        ("202599\n", "no row with an attribute"),
        ("202599\nMale Young \n", "no row with an attribute"),
        ("Male \ufffd\n", "no row with an attribute"),
    ],
)
def test_bad_attribute_tables(root: Path, text: str, message: str) -> None:
    (root / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(DatasetError, match=re.escape(message)) as error:
        CelebA(root)
    assert "list_attr_celeba.txt" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"6\nMale Y\xff\n", "line 2: 'utf-8' codec"), (b"6\n" + b"x" * (2**20 + 1), "line 2: longer than 1048576 bytes")],
)
def test_bytes_that_are_no_table(root: Path, content: bytes, message: str) -> None:
    (root / "list_attr_celeba.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        CelebA(root)


@pytest.mark.parametrize("count", [0, 5, 202599, "9" * 5000, "-3"])
def test_a_lying_count_is_not_relied_on(root: Path, count: object) -> None:
    (root / "list_attr_celeba.txt").write_text(text_table(attributes(), NAMES, count))
    assert len(CelebA(root)) == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([*POINT_ROW[:9], 328], "line 3, column 'rightmouth_y': '328' is not in a photo of 218 pixels"),
        ([-90, *POINT_ROW[1:]], "line 3, column 'lefteye_x': '-90' is not in a photo of 178 pixels"),
        (["nan", *POINT_ROW[1:]], "'nan' is not in a photo"),
        (["inf", *POINT_ROW[1:]], "'inf' is not in a photo"),
        (["x", *POINT_ROW[1:]], "'x' is not in a photo"),
        (POINT_ROW[:9], "line 3: 10 cells under 11 columns"),
    ],
)
def test_bad_landmarks(root: Path, values: list[object], message: str) -> None:
    (root / "list_landmarks_align_celeba.txt").write_text(text_table({FILES[0]: values}, POINTS, 1))
    with pytest.raises(DatasetError, match=message):
        CelebA(root)


def test_landmarks_just_outside_are_kept(root: Path) -> None:
    values = [-3, *POINT_ROW[1:9], 220]
    (root / "list_landmarks_align_celeba.txt").write_text(text_table({FILES[0]: values}, POINTS, 1))
    points = CelebA(root, size=(218, 178)).facts(0)["landmarks"]
    assert (points[0, 0].item(), points[4, 1].item()) == (-3, 220)


def test_landmarks_by_other_names_or_twice(root: Path) -> None:
    table = root / "list_landmarks_align_celeba.txt"
    table.write_text(text_table({FILES[0]: POINT_ROW}, ["left_x", *POINTS[1:]], 1))
    with pytest.raises(DatasetError, match="no column 'lefteye_x'"):
        CelebA(root)
    table.write_text(text_table({FILES[0]: POINT_ROW}, POINTS, 1) + f"{FILES[0]} {' '.join(map(str, POINT_ROW))}\n")
    with pytest.raises(DatasetError, match=r"line 4, column 'image_id': '000001\.jpg' stands twice"):
        CelebA(root)


@pytest.mark.parametrize(("text", "message"), [("000001.jpg 3", "'3' is not 0, 1 or 2"), ("000001.jpg", "1 cells")])
def test_bad_splits(root: Path, text: str, message: str) -> None:
    (root / "list_eval_partition.txt").write_text(text)
    assert len(CelebA(root)) == 6
    with pytest.raises(DatasetError, match=f"line 1.*{message}"):
        CelebA(root, split="train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder img_align_celeba"):
        CelebA(tmp_path)
    write_photos(tmp_path / "img_align_celeba")
    with pytest.raises(DatasetError, match=r"no list_attr_celeba\.txt or list_attr_celeba\.csv"):
        CelebA(tmp_path)
    (tmp_path / "list_attr_celeba.csv").write_text(csv_table(attributes(["7.jpg"]), NAMES))
    with pytest.raises(DatasetError, match="no image to probe"):
        CelebA(tmp_path)
    with pytest.raises(DatasetError, match=r"no list_eval_partition\.txt"):
        CelebA(tmp_path, split="test")
    with pytest.raises(DatasetError, match="split='valid' is none of train, val, test"):
        CelebA(tmp_path, split="valid")  # type: ignore[arg-type]


def test_links_out_of_the_root_are_refused(root: Path) -> None:
    photo, table = root / "img_align_celeba" / FILES[0], root / "list_attr_celeba.txt"
    outside = root.parent / f"{root.name}-outside"
    photo.rename(outside)
    photo.symlink_to(outside)
    with pytest.raises(DatasetError, match="leaves the folder"):
        CelebA(root)
    photo.unlink()
    assert len(CelebA(root)) == 5
    table.rename(outside)
    table.symlink_to(outside)
    with pytest.raises(DatasetError, match="leaves the folder"):
        CelebA(root)


def test_damaged_and_huge_photos(root: Path) -> None:
    with pytest.raises(DatasetError, match="more than max_pixels=38803"):
        CelebA(root, max_pixels=178 * 218 - 1)
    with pytest.raises(DatasetError, match=r"000001\.jpg: crop=\(219, 178\) is larger than a photo"):
        CelebA(root, crop=(219, 178))
    (root / "img_align_celeba" / FILES[3]).write_bytes(b"no photo")
    with pytest.raises(DatasetError, match=r"000004\.jpg: not readable as a photo"):
        CelebA(root)


def test_fingerprints_tell_sets_apart(layout: Path) -> None:
    probes = [CelebA(layout), CelebA(layout, split="train"), CelebA(layout, crop=0.5), CelebA(layout, size=(9, 9))]
    assert len({probe.fingerprint() for probe in probes}) == 4
    assert CelebA(layout).fingerprint() == probes[0].fingerprint()


def test_a_table_of_the_full_length_reads_fast(root: Path) -> None:
    # 20,000 of 202,599 rows; only six have a photo.
    rows = attributes() | {f"{n:06d}.jpg": [-1] * 40 for n in range(1000, 21000)}
    (root / "list_attr_celeba.txt").write_text(text_table(rows, NAMES, 202599))
    start = time.perf_counter()
    assert len(CelebA(root)) == 6
    assert time.perf_counter() - start < 10


WORD = st.sampled_from(["000001.jpg", "-1", "1", "0", "", " ", "\n", "Male", "../x", "\0", "9" * 400, "²", "\ufeff"])


@given(st.lists(WORD | st.text(max_size=6), max_size=60), st.sampled_from([".txt", ".csv"]))
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_random_tables_open_or_are_named(root: Path, words: list[str], suffix: str) -> None:
    (root / "list_attr_celeba.txt").unlink(missing_ok=True)
    table = root / f"list_attr_celeba{suffix}"
    table.write_text(("," if suffix == ".csv" else " ").join(words), encoding="utf-8", errors="surrogatepass")
    try:
        probe = CelebA(root)
    except DatasetError as error:
        assert str(root) in str(error)  # noqa: PT017
    else:
        assert set(probe[0].facts["attributes"].values()) <= {0, 1}
    table.unlink()


# CelebAMask-HQ.


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


FACE = {
    "skin": box(2, 4, 30, 28),
    "l_eye": box(8, 18, 10, 24),
    "r_eye": box(8, 8, 10, 14),
    "u_lip": box(20, 12, 22, 20),
    "l_lip": box(22, 12, 24, 20),
    "hair": box(0, 4, 6, 28),
}
NUMBERS = {"skin": 1, "l_eye": 4, "r_eye": 4, "u_lip": 8, "l_lip": 9, "hair": 10}


def painted(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The label map of g_mask.py, with left and right merged."""
    plane = np.zeros((32, 32), dtype=int)
    for part, mask in parts.items():
        plane[mask > 0] = NUMBERS[part]
    return plane


def write_face(root: Path, number: int, parts: Mapping[str, np.ndarray], mode: str = "RGB") -> None:
    folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
    for path in (root / "CelebA-HQ-img", folder):
        path.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (number % 251,) * 3).save(root / "CelebA-HQ-img" / f"{number}.jpg")
    for part, mask in parts.items():
        Image.fromarray(mask).convert(mode).save(folder / f"{number:05d}_{part}.png")


@pytest.fixture
def hq(tmp_path: Path) -> Path:
    for number in (10, 9, 1999, 2000, 28001):
        write_face(tmp_path, number, FACE)
    (tmp_path / "CelebA-HQ-img/notes.txt").touch()
    return tmp_path


HQ = {"size": (64, 64), "mask_size": (32, 32)}


def test_hq_in_the_order_of_the_numbers(hq: Path) -> None:
    probe = CelebAMaskHQ(hq, **HQ)
    assert [Path(name).name for name in probe.photos] == ["9.jpg", "10.jpg", "1999.jpg", "2000.jpg", "28001.jpg"]
    assert [int(probe.image(i).float().mean()) for i in range(4)] == [9, 10, 1999 % 251, 2000 % 251]
    assert probe.facts(0) == {}


def test_hq_parts(hq: Path) -> None:
    probe = CelebAMaskHQ(hq, **HQ)
    names = ["skin", "nose", "eye_g", "eye", "brow", "ear", "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r"]
    assert [concept.name for concept in probe.concepts] == [*names, "neck_l", "neck", "cloth"]
    assert [concept.number for concept in probe.concepts] == list(range(1, 16))
    for i in range(5):
        plane = probe.labels(i).planes["part"]
        assert plane.tolist() == painted(FACE).tolist()
        assert plane.dtype == torch.int32


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_hq_forms_of_masks(tmp_path: Path, mode: str) -> None:
    write_face(tmp_path, 5, FACE, mode)
    assert CelebAMaskHQ(tmp_path, **HQ).labels(0).planes["part"].tolist() == painted(FACE).tolist()


def test_hq_swapped_sides_change_nothing(tmp_path: Path) -> None:
    swapped = FACE | {"l_eye": FACE["r_eye"], "r_eye": FACE["l_eye"]}
    write_face(tmp_path, 0, FACE)
    write_face(tmp_path, 1, swapped)
    probe = CelebAMaskHQ(tmp_path, **HQ)
    assert torch.equal(probe.labels(0).planes["part"], probe.labels(1).planes["part"])


@pytest.mark.parametrize("crop", [None, (48, 40), 0.5, (33, 35)])
def test_hq_masks_and_photo_move_together(tmp_path: Path, crop: tuple[int, int] | float | None) -> None:
    hair = box(7, 10, 22, 27)
    write_face(tmp_path, 0, {"skin": box(0, 0, 32, 32), "hair": hair})
    photo = hair.repeat(2, 0).repeat(2, 1)
    Image.fromarray(photo).save(tmp_path / "CelebA-HQ-img/0.jpg", quality=100)
    probe = CelebAMaskHQ(tmp_path, crop=crop, size=(40, 40), mask_size=(40, 40))
    marked, bright = probe.labels(0).planes["part"] == 10, probe.image(0)[0] > 127
    # Sampling by the nearest value and antialiased may part at the rim only: by at most one pixel on two sides.
    assert (marked ^ bright).sum() <= 40 + 40
    assert (marked & bright).sum() / (marked | bright).sum() > 0.93
    assert not marked.all()


def test_hq_photos_without_masks_and_masks_without_photos_are_left_out(hq: Path) -> None:
    (hq / "CelebA-HQ-img/10.jpg").unlink()
    for mask in (hq / "CelebAMask-HQ-mask-anno/1").iterdir():
        mask.unlink()
    Image.new("RGB", (8, 8)).save(hq / "CelebA-HQ-img/000009.jpg")  # not a published name
    probe = CelebAMaskHQ(hq)
    assert [Path(name).name for name in probe.photos] == ["9.jpg", "1999.jpg", "28001.jpg"]


def test_hq_attributes_and_mapping(hq: Path) -> None:
    rows = {f"{n}.jpg": list(attribute_values(n).values()) for n in (9, 2000)}
    # As published: two blanks after the name, no column with a count.
    (hq / "CelebAMask-HQ-attribute-anno.txt").write_text(text_table(rows, NAMES, 30000, "  "))
    (hq / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx    orig_idx     orig_file\n9    119612     119613.jpg\n10   0   000001.jpg\n28001  5   000006.jpg\n"
    )
    probe = CelebAMaskHQ(hq)
    assert probe.facts(0) == {
        "attributes": {name: int(v == 1) for name, v in attribute_values(9).items()},
        "celeba": "119613.jpg",
    }
    assert probe.facts(1) == {"celeba": "000001.jpg"}
    assert set(probe.facts(3)) == {"attributes"}
    (hq / "list_eval_partition.txt").write_text("000001.jpg 0\n000006.jpg 2\n119613.jpg 0\n")
    assert [Path(name).name for name in CelebAMaskHQ(hq, split="train").photos] == ["9.jpg", "10.jpg"]
    assert [Path(name).name for name in CelebAMaskHQ(hq, split="test").photos] == ["28001.jpg"]
    assert CelebAMaskHQ(hq, split="test").facts(0) == {"celeba": "000006.jpg"}


def test_hq_split_needs_its_tables(hq: Path) -> None:
    with pytest.raises(DatasetError, match=r"no CelebA-HQ-to-CelebA-mapping\.txt"):
        CelebAMaskHQ(hq, split="val")
    (hq / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n9 1 000002.jpg\n")
    with pytest.raises(DatasetError, match=r"no list_eval_partition\.txt"):
        CelebAMaskHQ(hq, split="val")


def test_hq_bad_tables(hq: Path) -> None:
    (hq / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n9 1\n")
    with pytest.raises(DatasetError, match=r"mapping\.txt, line 2: 2 cells under 3 columns"):
        CelebAMaskHQ(hq)


def test_hq_bad_masks(hq: Path) -> None:
    folder = hq / "CelebAMask-HQ-mask-anno"
    Image.new("RGB", (16, 16)).save(folder / "0/00009_hair.png")
    with pytest.raises(DatasetError, match=r"00009_hair\.png: size \(16, 16\) \(h, w\), expected \(32, 32\)"):
        CelebAMaskHQ(hq).labels(0)
    Image.new("RGB", (32, 16)).save(folder / "0/00009_skin.png")
    with pytest.raises(
        DatasetError, match=r"00009_skin\.png: size \(16, 32\) .* not the shape of a photo of \(64, 64\)"
    ):
        CelebAMaskHQ(hq)
    (folder / "0/00009_skin.png").write_bytes(b"no mask")
    with pytest.raises(DatasetError, match=r"00009_skin\.png: not readable as a part mask"):
        CelebAMaskHQ(hq)
    (folder / "0/00009_skin.png").unlink()
    (folder / "0/00009_skin.png").symlink_to("/etc/passwd")
    with pytest.raises(DatasetError, match="leaves the folder"):
        CelebAMaskHQ(hq)


def test_hq_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="CelebA-HQ-img: No such file"):
        CelebAMaskHQ(tmp_path)
    write_face(tmp_path, 3, {})
    with pytest.raises(DatasetError, match="no photo of CelebA-HQ-img has a mask"):
        CelebAMaskHQ(tmp_path)


def test_hq_digests_are_checked(hq: Path) -> None:
    write_manifest(hq)
    assert CelebAMaskHQ(hq, verify=True, **HQ).labels(0).planes["part"].any()  # type: ignore[arg-type]
    Image.fromarray(FACE["hair"]).save(hq / "CelebAMask-HQ-mask-anno/0/00009_skin.png")
    with pytest.raises(DatasetError, match="SHA-256"):
        CelebAMaskHQ(hq, verify=True).labels(0)
