"""Random and hostile files: the outcome is a probe set that can be read, or a DatasetError with the place.

``FUZZ_PROFILE=deep`` runs 10,000 examples a test.
"""

import csv
import io
import json
import os
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.broden import Broden
from lightning_interp.data.readers.folder import SegmentationFolder, read_classes
from lightning_interp.errors import DatasetError
from tests.helpers.broden import Entry, Tables, write_broden, write_tables

settings.register_profile(
    "modest",
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", settings.get_profile("modest"), max_examples=10_000)
FUZZ = settings.get_profile(os.environ.get("FUZZ_PROFILE", "modest"))

CATEGORIES = ("object", "part", "scene")
LABELS = {
    1: ("car", {"object": 1.0}),
    2: ("wheel", {"part": 0.5, "object": 0.5}),
    500: ("street-s", {"scene": 2.0}),
}
PLANE = np.array([[1, 2], [0, 500]])
TABLES = Tables(CATEGORIES, LABELS, size=(4, 4), mask_size=(2, 2))

# fmt: off
HOSTILE = st.sampled_from([
    "", " ", ";", "0", "-5", "4", "500", "65536", "100000", "9" * 5000, "1e3", "²", "٣", "nan", "inf",
    "1;2;500", "../../x.png", "/etc/passwd", "ok.jpg", "ok_object.png", "ok_object.png;ok_part.png",
    "ok", ".", "~", "\0", "a\nb", '"', "'", "=1+1", "C:\\x", "x" * 300, "\ufeff",
    "name", "train", "val", "object", "part",
])
# fmt: on
CELL = st.one_of(HOSTILE, st.text(max_size=12), st.integers(-5, 10**12).map(str))
PLACE = re.compile(
    r"(index|label|category|c_.*)\.csv(, line \d+|: (no|label|No such file|File name too long))", re.DOTALL
)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            Entry("ok.jpg", {"object": [PLANE], "part": [PLANE], "scene": [500]}),
            Entry("other.jpg", {"scene": [500]}, split="val"),
        ]
        write_broden(Path(folder), TABLES, entries)
        yield Path(folder)


T = TypeVar("T")


def attempt(function: Callable[[], T]) -> tuple[T | None, str]:
    """What the function returns, or None and the text of its DatasetError; nothing else may be raised."""
    try:
        return function(), ""
    except DatasetError as error:
        return None, str(error)


def outcome(root: Path) -> None:
    """Read everything; anything but success or a DatasetError with a place is a failure of the test."""
    probe, message = attempt(lambda: Broden(root))
    if probe is None:
        assert PLACE.search(message), message
        return
    numbers = {concept.number for concept in probe.concepts}
    for index in range(len(probe)):
        item, message = attempt(partial(probe.__getitem__, index))
        if item is None:
            assert ".png" in message
            continue
        assert item.image.shape == (3, 4, 4)
        for category, plane in item.labels.planes.items():
            assert category in CATEGORIES
            assert plane.shape[1:] == probe.mask_size
            assert set(plane.flatten().tolist()) <= numbers | {0}
        assert all(set(image) <= numbers for image in item.labels.image.values())


def fuzz(root: Path, table: str, content: bytes) -> None:
    """Try one table's content, and put the table back."""
    good = (root / table).read_bytes()
    try:
        (root / table).write_bytes(content)
        outcome(root)
    finally:
        (root / table).write_bytes(good)


def rows_of(root: Path, table: str) -> list[list[str]]:
    with (root / table).open(newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode(errors="replace")


@pytest.mark.parametrize("table", ["index.csv", "label.csv", "category.csv", "c_object.csv"])
@FUZZ
@given(data=st.data())
def test_changed_cells(root: Path, table: str, data: st.DataObject) -> None:
    rows = rows_of(root, table)
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.sampled_from(rows))
        if row and data.draw(st.integers(0, 4)):
            row[data.draw(st.integers(0, len(row) - 1))] = data.draw(CELL)
        else:
            rows.append(data.draw(st.one_of(st.just(list(row)), st.lists(CELL, max_size=12))))
    fuzz(root, table, as_csv(rows))


@pytest.mark.parametrize("table", ["index.csv", "label.csv", "c_object.csv"])
@FUZZ
@given(data=st.data())
def test_changed_bytes(root: Path, table: str, data: st.DataObject) -> None:
    content = bytearray((root / table).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 30))] = data.draw(
        st.one_of(st.binary(max_size=20), st.text(',;"\r\n\t0129', max_size=20).map(str.encode))
    )
    fuzz(root, table, bytes(content))


@pytest.mark.parametrize(
    "row",
    [
        "ok.jpg,train,4,4,100000,100000,ok_object.png,,",
        "ok.jpg,train,65535,65535,65535,65535,ok_object.png,,",
        "ok.jpg,train,4,4,2,2," + "500;" * 30_000 + ",,",
        "ok.jpg,train,4,4,2,2," + "ok_object.png;" * 1_000 + ",,",
        "ok.jpg,train,4,4,2,2," + "," * 900_000,
        "ok.jpg" + "x" * 40_000_000,
        '"' + "x" * 200_000 + '",train',
    ],
    ids=["huge", "largest", "numbers", "planes", "cells", "line", "field"],
)
def test_one_row_costs_at_most_100_mb(root: Path, row: str) -> None:
    header = ",".join(rows_of(root, "index.csv")[0])
    content = f"{header}\n{row}\n".encode()
    outcome(root)  # what is imported at the first read does not count
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fuzz(root, "index.csv", content)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= 100e6


SHARES = st.dictionaries(st.sampled_from(CATEGORIES), st.floats(0, 1e6), min_size=1)
# csv has no way to keep a lone carriage return or line end on one line; the reader refuses them.
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)


@FUZZ
@given(labels=st.dictionaries(st.integers(1, 65_535), st.tuples(NAME, SHARES), min_size=1, max_size=12))
def test_labels_written_are_labels_read(root: Path, labels: dict[int, tuple[str, dict[str, float]]]) -> None:
    labels = LABELS | labels
    write_tables(root, Tables(CATEGORIES, labels))
    try:
        concepts = Broden(root).concepts
    finally:
        write_tables(root, TABLES)
    expected = []
    for number in sorted(labels):
        name, shares = labels[number]
        most = max(shares.values())
        expected.append(Concept(number, name, [c for c in CATEGORIES if shares.get(c) == most][-1]))
    assert list(concepts) == expected


ITEMS = st.lists(
    st.one_of(
        st.sampled_from([0, 1, 2, 500]),
        st.lists(st.sampled_from([0, 1, 2, 500]), min_size=4, max_size=4).map(
            lambda values: np.array(values).reshape(2, 2)
        ),
    ),
    max_size=3,
)


@FUZZ
@given(
    images=st.lists(st.dictionaries(st.sampled_from(CATEGORIES), ITEMS), min_size=1, max_size=4),
    data=st.data(),
)
def test_index_written_is_index_read_in_any_order(images: list[dict[str, list]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(images))))
    expected = {}
    for number, items in enumerate(images):
        planes = {c: [item.tolist() for item in own if not isinstance(item, int)] for c, own in items.items()}
        numbers = {c: [item for item in own if isinstance(item, int) and item] for c, own in items.items()}
        labels = {c: p for c, p in planes.items() if p}, {c: n for c, n in numbers.items() if n}
        if any(labels):
            expected[f"images/{number}.jpg"] = labels
    with tempfile.TemporaryDirectory() as folder:
        write_broden(Path(folder), TABLES, [Entry(f"{number}.jpg", images[number]) for number in order])
        if not expected:
            with pytest.raises(DatasetError, match="no image"):
                Broden(folder)
            return
        probe = Broden(folder)
        assert [int(Path(photo).stem) for photo in probe.photos] == [
            number for number in order if f"images/{number}.jpg" in expected
        ]
        for index, photo in enumerate(probe.photos):
            labels = probe.labels(index)
            found = {c: plane.tolist() for c, plane in labels.planes.items()}, dict(labels.image)
            assert found == expected[photo]


SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70_000), st.floats(), st.text(max_size=6), st.just(10**400)
)
ENTRY = st.fixed_dictionaries({}, optional={"id": SCALAR, "name": SCALAR, "category": SCALAR})


def nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    return inner | st.lists(inner, max_size=4) | st.dictionaries(st.text("0129-x", max_size=6), inner, max_size=4)


JSON = nested(nested(SCALAR))
CLASSES = st.one_of(
    JSON,
    st.lists(st.one_of(ENTRY, SCALAR), max_size=4),
    st.fixed_dictionaries({"classes": st.one_of(JSON, st.lists(ENTRY, max_size=4))}, optional={"unlabelled": JSON}),
)


@FUZZ
@given(content=st.one_of(CLASSES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)))
def test_classes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed" / "classes.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    read, message = attempt(lambda: read_classes(path))
    if read is None:
        assert "classes.json" in message
        return
    concepts, unlabelled = read
    assert len({concept.number for concept in concepts}) == len(concepts) > 0
    assert all(type(c.number) is int and 1 <= c.number <= 65_535 and c.number != unlabelled for c in concepts)
    assert all(isinstance(text, str) and text.strip() for c in concepts for text in (c.name, c.category))


@FUZZ
@given(data=st.data())
def test_damaged_images(data: st.DataObject) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        (root / "masks").mkdir()
        (root / "classes.json").write_text('["a", "b"]')
        Image.fromarray(np.stack([values * 80] * 3, axis=-1)).save(root / "images/x.jpg")
        Image.fromarray(values).save(root / "masks/x.png")
        path = root / data.draw(st.sampled_from(["images/x.jpg", "masks/x.png"]))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content)))
            content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        path.write_bytes(content)
        item, message = attempt(lambda: SegmentationFolder(root, size=(8, 8), mask_size=(8, 8))[0])
        if item is None:
            assert "x.jpg" in message or "x.png" in message
            return
        assert item.image.shape == (3, 8, 8)
        assert all(set(plane.flatten().tolist()) <= {0, 1, 2} for plane in item.labels.planes.values())
