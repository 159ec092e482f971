"""The reader of label-and-context tables: groups, shares, masks, and rows that are refused by line."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.files import write_manifest
from lightning_interp.data.readers.group_csv import FOREGROUND, GroupCSV
from lightning_interp.errors import DatasetError

HEADER = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
ROWS = [
    ["1", "001.Auk/a.jpg", "0", "0", "0", "/b/bamboo.jpg"],
    ["2", "001.Auk/b.jpg", "0", "0", "1", "/o/ocean.jpg"],
    ["3", "002.Gull/c.jpg", "1", "0", "1", "/o/ocean.jpg"],
    ["4", "002.Gull/d.jpg", "1", "0", "1", "/o/ocean.jpg"],
    ["5", "002.Gull/e.jpg", "1", "1", "0", "/b/bamboo.jpg"],
    ["6", "001.Auk/f.jpg", "0", "2", "1", "/o/ocean.jpg"],
]
SMALL = {"size": (4, 6), "mask_size": (4, 6)}
BIRD = np.array([[0, 51, 102, 153], [0, 204, 255, 0]], dtype=np.uint8).repeat(2, 0).repeat(2, 1)[:, :6]


def write(root: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> None:
    with (root / "metadata.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, ROWS)
    for row in ROWS:
        photo, mask = tmp_path / row[1], (tmp_path / "segmentations" / row[1]).with_suffix(".png")
        for path in (photo, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (20 * int(row[0]),) * 3).save(photo)
        Image.fromarray(BIRD).save(mask)
    return tmp_path


def test_rows_in_order_with_their_facts(root: Path) -> None:
    probe = GroupCSV(root, **SMALL)
    assert probe.photos == tuple(row[1] for row in ROWS)
    assert [int(probe[i].image.float().mean()) for i in range(6)] == [20, 40, 60, 80, 100, 120]
    assert [probe.facts(i)["attributes"] for i in (1, 4)] == [{"y": 0, "place": 1}, {"y": 1, "place": 0}]


def test_groups_and_training_shares(root: Path) -> None:
    probe = GroupCSV(root)
    assert probe.groups.tolist() == [0, 1, 3, 3, 2, 1]
    # Of the four training rows: one landbird on land, one on water, two waterbirds on water.
    assert probe.training_shares.tolist() == [[0.25, 0.25], [0.0, 0.5]]
    val = GroupCSV(root, split="val")
    assert (val.photos, val.groups.tolist()) == (("002.Gull/e.jpg",), [2])
    assert torch.equal(val.training_shares, probe.training_shares)
    assert (probe.groups.dtype, probe.training_shares.dtype) == (torch.int64, torch.float64)


def test_waterbirds_published_counts(tmp_path: Path) -> None:
    # The training groups of Waterbirds: 3498, 184, 56, 1057.
    rows = [
        [f"{y}{c}{n}.jpg", str(y), "0", str(c)]
        for (y, c), count in {(0, 0): 3498, (0, 1): 184, (1, 0): 56, (1, 1): 1057}.items()
        for n in range(count)
    ]
    write(tmp_path, [*rows, ["test.jpg", "1", "2", "0"]], ["img_filename", "y", "split", "place"])
    Image.new("RGB", (4, 4)).save(tmp_path / "test.jpg")
    shares = GroupCSV(tmp_path, split="test").training_shares
    assert (shares * 4795).round().tolist() == [[3498, 184], [56, 1057]]
    assert float(shares.sum()) == pytest.approx(1)


def test_more_contexts_than_two_number_the_groups(root: Path) -> None:
    write(root, [*ROWS[:5], [*ROWS[5][:4], "2", ""]])
    train = GroupCSV(root, split="train")
    # Context 2 occurs in the test split only, and groups have the same numbers everywhere.
    assert train.num_contexts == 3
    assert train.groups.tolist() == [0, 1, 4, 4]
    assert train.training_shares.tolist() == [[0.25, 0.25, 0], [0, 0.5, 0]]


def test_without_training_rows_there_are_no_shares(root: Path) -> None:
    write(root, ROWS[4:])
    assert GroupCSV(root).training_shares.isnan().all()


def test_concepts_are_labels_and_contexts(root: Path) -> None:
    probe = GroupCSV(root, split="val")
    assert probe.concepts == (
        Concept(2, "y=0", "y"),
        Concept(3, "y=1", "y"),
        Concept(4, "place=0", "place"),
        Concept(5, "place=1", "place"),
    )
    assert probe.labels(0).planes == {}
    assert probe.labels(0).image == {"y": (3,), "place": (4,)}


def test_masks_are_the_foreground_by_majority(root: Path) -> None:
    probe = GroupCSV(root, masks="segmentations", **SMALL)
    assert probe.concepts[0] == FOREGROUND
    labels = probe.labels(2)
    # CUB's grey is the share of five annotators: three or more make the bird.
    assert labels.planes["object"].tolist() == (BIRD >= 153).astype(int).tolist()
    assert labels.planes["object"].dtype == torch.int32
    assert labels.image == {"y": (3,), "place": (5,)}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("high", [1, 255])
def test_forms_of_masks(root: Path, mode: str, high: int) -> None:
    grey = Image.fromarray((BIRD > 0).astype(np.uint8) * high)
    mask = grey.point(lambda value: 255 * value).convert("1") if mode == "1" and high == 1 else grey.convert(mode)
    if mode == "P":
        mask = Image.fromarray((BIRD > 0).astype(np.uint8))
        mask.putpalette([0, 0, 0, 9, 9, 9])
    mask.save(root / "segmentations/001.Auk/a.png")
    plane = GroupCSV(root, masks="segmentations", **SMALL).labels(0).planes["object"]
    assert plane.tolist() == (BIRD > 0).astype(int).tolist()


def test_an_empty_mask_is_an_empty_foreground(root: Path) -> None:
    Image.new("L", (6, 4)).save(root / "segmentations/001.Auk/a.png")
    assert not GroupCSV(root, masks="segmentations").labels(0).planes["object"].any()


def test_crop_moves_photo_and_mask_together(root: Path) -> None:
    Image.fromarray(BIRD).convert("RGB").save(root / "001.Auk/a.png")
    rows = [["1", "001.Auk/a.png", "0", "0", "0", ""]]
    write(root, rows)
    probe = GroupCSV(root, masks="segmentations", crop=(2, 4), size=(2, 4), mask_size=(2, 4))
    assert probe.image(0)[0].tolist() == BIRD[1:3, 1:5].tolist()
    assert probe.labels(0).planes["object"].tolist() == (BIRD[1:3, 1:5] >= 153).astype(int).tolist()
    assert probe.fingerprint() != GroupCSV(root, masks="segmentations", size=(2, 4), mask_size=(2, 4)).fingerprint()


def test_names_of_columns_are_arguments(root: Path) -> None:
    write(root, [row[1:5] for row in ROWS], ["file", "bird", "part", "back"])
    names = {"image_column": "file", "label_column": "bird", "split_column": "part", "context_column": "back"}
    probe = GroupCSV(root, "metadata.csv", split="train", **names)
    assert probe.facts(1)["attributes"] == {"bird": 0, "back": 1}
    assert probe.categories == ("back", "bird")
    with pytest.raises(DatasetError, match="need four columns"):
        GroupCSV(root, **(names | {"context_column": "bird"}))


def test_only_the_photos_of_the_split_have_to_be_there(root: Path) -> None:
    (root / ROWS[0][1]).unlink()
    assert len(GroupCSV(root, split="test")) == 1
    with pytest.raises(DatasetError, match=r"metadata\.csv, line 2: .*001\.Auk/a\.jpg: FileNotFoundError"):
        GroupCSV(root, split="train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["7", "new.jpg", "1", "0"], "line 8: 4 cells under 6 columns"),
        (["7", "new.jpg", "1", "0", "1", "", ""], "line 8: 7 cells under 6 columns"),
        (["7", "", "1", "0", "1", ""], "line 8, column 'img_filename': empty"),
        (["7", "new.jpg", "-1", "0", "1", ""], "line 8, column 'y': '-1' is not a whole number in 0...9999"),
        (["7", "new.jpg", "", "0", "1", ""], "line 8, column 'y': '' is not"),
        (["7", "new.jpg", "1.0", "0", "1", ""], "line 8, column 'y': '1.0' is not"),
        (["7", "new.jpg", "٣", "0", "1", ""], "line 8, column 'y': '٣' is not"),
        (["7", "new.jpg", "1", "3", "1", ""], "line 8, column 'split': '3' is not a whole number in 0...2"),
        (["7", "new.jpg", "1", "0", "9" * 5000, ""], "line 8, column 'place': '999"),
        (["7", "001.Auk/a.jpg", "1", "0", "1", ""], "column 'img_filename': '001.Auk/a.jpg' stands on line 2 already"),
        (["7", "/etc/passwd", "1", "0", "1", ""], "line 8: '/etc/passwd': absolute paths and '..' are refused"),
        (["7", "../out.jpg", "1", "0", "1", ""], "line 8: '../out.jpg': absolute paths and '..' are refused"),
        (["7", "001.Auk", "1", "0", "1", ""], "not a file"),
        (["7", ".", "1", "0", "1", ""], "not a file"),
        (["7", "metadata.csv", "1", "0", "1", ""], "metadata.csv: not readable as a photo"),
    ],
)
def test_bad_rows(root: Path, row: list[str], message: str) -> None:
    (root.parent / "out.jpg").write_bytes((root / ROWS[0][1]).read_bytes())
    write(root, [*ROWS, row])
    with pytest.raises(DatasetError, match=re.escape(message)):
        GroupCSV(root, masks="segmentations")


def test_a_link_out_of_the_root(root: Path) -> None:
    (root.parent / "out.jpg").write_bytes((root / ROWS[0][1]).read_bytes())
    (root / "link.jpg").symlink_to(root.parent / "out.jpg")
    write(root, [*ROWS, ["7", "link.jpg", "1", "0", "1", ""]])
    with pytest.raises(DatasetError, match=r"line 8: .*leaves the folder"):
        GroupCSV(root)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([*HEADER[:2], "Y", *HEADER[3:]], r"the header lacks \['y'\]"),
        ([*HEADER[:4], "y", "place"], "a column stands twice"),
    ],
)
def test_bad_headers(root: Path, header: list[str], message: str) -> None:
    write(root, ROWS, header)
    with pytest.raises(DatasetError, match=message):
        GroupCSV(root)


def test_bad_masks(root: Path) -> None:
    Image.new("L", (5, 4)).save(root / "segmentations/001.Auk/b.png")
    with pytest.raises(DatasetError, match=r"b\.png: size \(4, 5\) \(h, w\), expected \(4, 6\)"):
        GroupCSV(root, masks="segmentations")
    (root / "segmentations/001.Auk/b.png").unlink()
    with pytest.raises(DatasetError, match=r"line 3: .*b\.png: FileNotFoundError"):
        GroupCSV(root, masks="segmentations")


def test_bad_arguments(root: Path) -> None:
    with pytest.raises(DatasetError, match="split='dev' is none of train, val, test"):
        GroupCSV(root, split="dev")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"crop=\(9, 9\) is larger than a photo of \(4, 6\)"):
        GroupCSV(root, crop=(9, 9))
    with pytest.raises(DatasetError, match=r"'\.\./metadata\.csv': absolute paths"):
        GroupCSV(root, "../metadata.csv")
    with pytest.raises(DatasetError, match="more than max_pixels=23"):
        GroupCSV(root, max_pixels=23)
    write(root, ROWS[:4])
    with pytest.raises(DatasetError, match="no row of split 'test'"):
        GroupCSV(root, split="test")


def test_digests_are_checked(root: Path) -> None:
    write_manifest(root)
    assert len(GroupCSV(root, verify=True)) == 6
    Image.new("RGB", (6, 4)).save(root / ROWS[0][1])
    with pytest.raises(DatasetError, match="SHA-256"):
        GroupCSV(root, verify=True).image(0)


CELL = st.sampled_from(["", "0", "1", "2", "-1", "9" * 30, "²", "\0", "../x", "001.Auk/a.jpg", '"', "a\nb", "nan"])


@given(st.lists(st.lists(CELL | st.text(max_size=8), min_size=0, max_size=7), max_size=3))
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_random_rows_open_or_are_named(root: Path, rows: list[list[str]]) -> None:
    (root / "metadata.csv").write_text(
        "\n".join([",".join(HEADER), *(",".join(row) for row in ROWS), *(",".join(row) for row in rows)]),
        encoding="utf-8",
        errors="surrogatepass",
    )
    try:
        probe = GroupCSV(root)
    except DatasetError as error:
        assert "metadata.csv, line" in str(error) or "not readable as a photo" in str(error)  # noqa: PT017
    else:
        assert len(probe) >= 6
        probe[len(probe) - 1]
