"""The Broden reader: every trap of the published format, each with a literal, and what it refuses."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.broden import Broden
from lightning_interp.data.readers.files import IMAGENET, write_manifest
from lightning_interp.errors import DatasetError
from tests.helpers.broden import Entry, Tables, save_plane, write_broden

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")
# Gaps at 4 and 6...299; 2 and 3 are in two categories, 3 with equal coverage; 51,210 needs both channels.
LABELS = {
    1: ("red-c", {"color": 2.5}),
    2: ("glass", {"object": 0.25, "material": 1.5}),
    3: ("wood", {"object": 0.75, "material": 0.75}),
    5: ("eye", {"part": 0.1}),
    300: ("street-s", {"scene": 4.0}),
    301: ("striped", {"texture": 1.0}),
    302: ("dotted", {"texture": 2.0}),
    51210: ("wheel", {"part": 0.2}),
}


def plane(*values: int) -> np.ndarray:
    """A 4 x 3 plane that starts with these numbers."""
    flat = np.zeros(12, dtype=np.int64)
    flat[: len(values)] = values
    return flat.reshape(4, 3)


ENTRIES = [
    Entry("ade/one.jpg", {"object": [plane(2, 3, 0, 2)], "material": [plane(0, 2)]}, photo=10),
    Entry("ade/two.jpg", {"part": [plane(5, 51210), plane(51210, 0, 5)], "scene": [300]}, split="val"),
    Entry("dtd/three.jpg", {"texture": [302, 301], "color": [plane(1)]}, photo=np.full((8, 6), 77, np.uint8)),
    Entry("ade/four.jpg", {"scene": [0]}),
    Entry("ade/five.jpg", {}),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # The columns of the index stand in another order than the rows of category.csv, as in the published set.
    order = ["texture", "scene", "color", "material", "part", "object"]
    write_broden(tmp_path / "broden", Tables(CATEGORIES, LABELS, columns=order), ENTRIES)
    return tmp_path / "broden"


def rewrite(path: Path, line: int, column: str, value: str) -> None:
    """Put ``value`` into one cell; ``line`` as an editor counts, 1 for the header."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    rows[line - 1][rows[0].index(column)] = value
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


def test_concepts_with_gaps_and_primary_categories(root: Path) -> None:
    assert Broden(root).concepts == (
        Concept(1, "red-c", "color"),
        Concept(2, "glass", "material"),
        Concept(3, "wood", "material"),  # equal coverage: the later row of category.csv
        Concept(5, "eye", "part"),
        Concept(300, "street-s", "scene"),
        Concept(301, "striped", "texture"),
        Concept(302, "dotted", "texture"),
        Concept(51210, "wheel", "part"),
    )


def test_tie_goes_by_the_order_of_category_csv_not_of_the_argument(tmp_path: Path) -> None:
    order = ("material", "object", "color", "part", "scene", "texture")
    write_broden(tmp_path, Tables(order, LABELS), ENTRIES)
    for asked in (("object", "material"), ("material", "object")):
        probe = Broden(tmp_path, categories=asked)
        assert [(c.number, c.category) for c in probe.concepts] == [(2, "material"), (3, "object")]


def test_rows_without_an_item_are_skipped_zero_included(root: Path) -> None:
    probe = Broden(root)
    assert probe.photos == ("images/ade/one.jpg", "images/ade/two.jpg", "images/dtd/three.jpg")
    assert (len(probe), probe.mask_size, probe.normalize) == (3, (4, 3), IMAGENET)


def test_label_planes_and_image_numbers(root: Path) -> None:
    probe = Broden(root)
    one, two, three = (probe[i].labels for i in range(3))
    assert {c: p.tolist() for c, p in one.planes.items()} == {
        "object": [[[2, 3, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0]]],
        "material": [[[0, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]],
    }
    assert two.planes["part"].tolist() == [plane(5, 51210).tolist(), plane(51210, 0, 5).tolist()]
    assert two.planes["part"].dtype == torch.int32
    assert two.image == {"scene": [300]}
    assert three.image == {"texture": [302, 301]}
    assert list(three.planes) == ["color"]


def test_grey_photo_is_replicated(root: Path) -> None:
    with Image.open(root / "images/dtd/three.jpg") as image:
        assert image.mode == "L"
    assert torch.equal(Broden(root)[2].image, torch.full((3, 8, 6), 77, dtype=torch.uint8))


def test_zero_beside_a_number_is_ignored(root: Path) -> None:
    rewrite(root / "index.csv", 3, "scene", "0;300")
    assert Broden(root)[1].labels.image == {"scene": [300]}


def test_chosen_categories(root: Path) -> None:
    probe = Broden(root, categories=["object"])
    assert probe.photos == ("images/ade/one.jpg",)
    assert probe.concepts == (Concept(2, "glass", "object"), Concept(3, "wood", "object"))
    assert list(probe[0].labels.planes) == ["object"]


def test_number_of_no_chosen_category_is_unlabelled(root: Path) -> None:
    save_plane(root / "images/ade/one_object.png", plane(2, 5))
    assert Broden(root, categories=["object"])[0].labels.planes["object"][0, 0].tolist() == [2, 0, 0]
    assert Broden(root)[0].labels.planes["object"][0, 0].tolist() == [2, 5, 0]
    rewrite(root / "index.csv", 3, "scene", "5;300")
    assert Broden(root, categories=["scene"])[0].labels.image == {"scene": [300]}
    assert Broden(root)[1].labels.image == {"scene": [5, 300]}


def test_split(root: Path) -> None:
    assert Broden(root, split="val").photos == ("images/ade/two.jpg",)
    with pytest.raises(DatasetError, match=r"no image .* split 'test'"):
        Broden(root, split="test")


def test_sizes_scale_photos_and_planes(root: Path) -> None:
    probe = Broden(root, size=(16, 12), mask_size=(2, 6))
    assert probe[0].image.shape == (3, 16, 12)
    # Pixel centres of 2 rows in 4 lie on rows 1 and 3; each of 3 columns is doubled.
    assert probe[0].labels.planes["object"].tolist() == [[[2, 2, 0, 0, 0, 0], [0] * 6]]
    assert probe.mask_size == (2, 6)


def test_rows_of_unlike_size_need_a_size(root: Path) -> None:
    rewrite(root / "index.csv", 4, "sh", "2")
    save_plane(root / "images/dtd/three_color.png", plane(1)[:2])
    with pytest.raises(DatasetError, match=r"index\.csv, line 4: \(2, 3\) .* \(4, 3\); give mask_size="):
        Broden(root)
    assert Broden(root, mask_size=(4, 3))[2].labels.planes["color"].shape == (1, 4, 3)


def test_any_order_of_rows_gives_the_same_labels(root: Path) -> None:
    def by_name() -> dict[str, object]:
        probe = Broden(root)
        return {
            probe.photos[i]: (
                probe[i].image.tolist(),
                {c: p.tolist() for c, p in probe[i].labels.planes.items()},
                probe[i].labels.image,
            )
            for i in range(len(probe))
        }

    before = by_name()
    for table in ("index.csv", "label.csv", "c_object.csv", "c_material.csv"):
        header, *rows = (root / table).read_text().splitlines()
        random.Random(0).shuffle(rows)
        (root / table).write_text("\n".join([header, *rows]))
    assert by_name() == before
    assert Broden(root).concepts[2] == Concept(3, "wood", "material")


def test_fingerprint_tells_sets_apart(root: Path) -> None:
    prints = {Broden(root, **options).fingerprint() for options in ({}, {"split": "train"}, {"size": (8, 8)})}
    assert len(prints) == 3
    assert Broden(root).fingerprint() == Broden(root).fingerprint()


@pytest.mark.parametrize(
    ("table", "line", "column", "value", "message"),
    [
        ("index.csv", 2, "object", "../../secret.png", "'..' are refused"),
        ("index.csv", 2, "object", "/etc/passwd", "absolute paths"),
        ("index.csv", 3, "image", "ade/none.jpg", "No such file"),
        ("index.csv", 3, "image", "ade/one.jpg", "stands on line 2 already"),
        ("index.csv", 3, "image", " ", "empty"),
        ("index.csv", 2, "object", "ade", "not a file"),
        ("index.csv", 2, "object", "ade/one.jpg", "not readable as a Broden label plane"),
        ("index.csv", 3, "scene", "4", "label 4 is not in label.csv"),
        ("index.csv", 3, "scene", "9" * 5000, "is not in label.csv"),
        ("index.csv", 3, "scene", "-5", "No such file"),
        ("index.csv", 3, "sh", "100000", "'100000' is not a whole number"),
        ("index.csv", 3, "sh", "-4", "'-4' is not a whole number"),
        ("index.csv", 3, "ih", "٨", "is not a whole number"),
        ("label.csv", 4, "number", "2", "label 2 stands twice"),
        ("label.csv", 4, "number", "0", "whole number in 1...65535"),
        ("label.csv", 4, "number", "65536", "whole number in 1...65535"),
        ("label.csv", 4, "name", "", "empty"),
        ("category.csv", 3, "name", "color", "stands twice"),
        ("category.csv", 3, "name", "../object", "no fit name"),
        ("c_object.csv", 2, "number", "4", "not in label.csv"),
        ("c_object.csv", 2, "coverage", "nan", "'nan' is not a finite number"),
        ("c_object.csv", 2, "coverage", "-1", "finite number"),
        ("c_object.csv", 2, "coverage", "much", "finite number"),
    ],
)
def test_bad_cell_is_named(root: Path, table: str, line: int, column: str, value: str, message: str) -> None:
    rewrite(root / table, line, column, value)
    with pytest.raises(DatasetError, match=message) as caught:
        Broden(root)
    assert f"{table}, line {line}, column '{column}'" in str(caught.value)


def test_sizes_that_the_headers_belie(root: Path) -> None:
    rewrite(root / "index.csv", 2, "iw", "7")
    expected = r"index\.csv, line 2, column 'image': .*one\.jpg: size \(8, 6\) \(h, w\), expected \(8, 7\)"
    with pytest.raises(DatasetError, match=expected):
        Broden(root)
    rewrite(root / "index.csv", 2, "iw", "6")
    rewrite(root / "index.csv", 2, "sh", "5")
    with pytest.raises(DatasetError, match=r"column 'object': .*size \(4, 3\) \(h, w\), expected \(5, 3\)"):
        Broden(root)


def test_null_byte_in_a_path(root: Path) -> None:
    text = (root / "index.csv").read_text()
    (root / "index.csv").write_text(text.replace("ade/two.jpg", "a\0b.jpg"))
    with pytest.raises(DatasetError, match=r"index\.csv, line 3"):
        Broden(root)


@pytest.mark.parametrize("table", ["index.csv", "label.csv", "category.csv", "c_part.csv"])
def test_bad_table_is_named(root: Path, table: str) -> None:
    path = root / table
    good = path.read_bytes()
    for content, message in (
        (b"", "line 1: no header row"),
        (b"a,b\n", "line 1: the header lacks"),
        (good + b"1,2\n", "cells under"),
        (good + b'"open,1,2\n1,2\n', "unexpected end of data"),
        (good + b"\xff\xfe\n", "utf-8"),
        (good + b"x" * (2**20 + 1), "longer than 1048576 bytes"),
        (b"name,name\n", "a column stands twice"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message) as caught:
            Broden(root)
        assert f"{table}, line " in str(caught.value)
    path.unlink()
    with pytest.raises(DatasetError, match=f"{table}: No such file"):
        Broden(root)


def test_byte_order_mark_and_empty_lines_are_read(root: Path) -> None:
    before = Broden(root).describe()
    for table in ("index.csv", "label.csv", "category.csv"):
        text = (root / table).read_bytes()
        (root / table).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\r\n", b"\n\n"))
    assert Broden(root).describe() == before


def test_unknown_category_and_missing_column(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"category\.csv: no category \['animal'\]"):
        Broden(root, categories=["animal"])
    with pytest.raises(DatasetError, match="no category to read"):
        Broden(root, categories=[])
    text = (root / "index.csv").read_text().replace("texture", "textile", 1)
    (root / "index.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"index\.csv, line 1: the header lacks \['texture'\]"):
        Broden(root)


def test_label_in_no_category(root: Path) -> None:
    text = (root / "c_part.csv").read_text().splitlines()
    (root / "c_part.csv").write_text("\n".join(line for line in text if ",5," not in line))
    with pytest.raises(DatasetError, match=r"label\.csv: label 5 is in no c_<category>\.csv"):
        Broden(root)


def test_symbolic_link_may_not_leave_the_root(root: Path) -> None:
    photo = root / "images/ade/two.jpg"
    inside = root / "images/elsewhere.jpg"
    photo.rename(inside)
    photo.symlink_to(inside)
    assert len(Broden(root)) == 3
    inside.rename(root.parent / "outside.jpg")
    photo.unlink()
    photo.symlink_to(root.parent / "outside.jpg")
    with pytest.raises(DatasetError, match=r"index\.csv, line 3, column 'image': .* leaves the folder"):
        Broden(root)


def test_bad_plane_is_named_on_access(root: Path) -> None:
    probe = Broden(root)
    path = root / "images/ade/one_object.png"
    save_plane(path, plane(2, 0, 0, 0, 4))
    with pytest.raises(DatasetError, match=r"one_object\.png: label 4 at row 1, column 1 is not declared"):
        probe[0]
    Image.fromarray(np.full((4, 3, 3), 2, np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"one_object\.png: blue is not 0"):
        probe[0]
    save_plane(path, np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(DatasetError, match=r"one_object\.png: size \(3, 3\)"):
        probe[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"one_object\.png: not readable"):
        probe[0]
    path.unlink()
    with pytest.raises(DatasetError, match=r"one_object\.png: .*No such file"):
        probe[0]


def test_huge_photo_is_refused_on_construction(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2, column 'image': .* 48 pixels, more than max_pixels=47"):
        Broden(root, max_pixels=47)


def test_too_many_planes_for_one_image_are_refused(root: Path) -> None:
    rewrite(root / "index.csv", 2, "object", ";".join(["ade/one_object.png"] * 4))  # a fifth is its material
    assert Broden(root, max_pixels=60)[0].labels.planes["object"].shape == (4, 4, 3)
    with pytest.raises(DatasetError, match=r"index\.csv, line 2: 60 pixels of label planes, more than"):
        Broden(root, max_pixels=59)


def test_verify(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        Broden(root, verify=True)
    write_manifest(root)
    probe = Broden(root, verify=True)
    assert torch.equal(probe[1].labels.planes["part"], Broden(root)[1].labels.planes["part"])
    save_plane(root / "images/ade/two_part_2.png", plane(5))
    assert Broden(root)[1].labels.planes["part"][1, 0, 0] == 5
    with pytest.raises(DatasetError, match=r"two_part_2\.png: SHA-256"):
        probe[1]
