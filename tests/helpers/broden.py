"""Writes a small data set in the Broden format, as CSVs and images, for the tests of its reader."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Item = int | np.ndarray


@dataclass
class Entry:
    """One image: its name, a grey level or ``(H, W[, 3])`` pixels, and its items by category."""

    name: str
    items: Mapping[str, Sequence[Item]]
    photo: int | np.ndarray = 128
    split: str = "train"


@dataclass
class Tables:
    """``labels``: name and coverage by category, by number; ``categories``: in the order of category.csv."""

    categories: Sequence[str]
    labels: Mapping[int, tuple[str, Mapping[str, float]]]
    size: tuple[int, int] = (8, 6)
    mask_size: tuple[int, int] = (4, 3)
    columns: Sequence[str] = field(default_factory=list)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)


def save_plane(path: Path, plane: np.ndarray) -> None:
    channels = np.stack([plane % 256, plane // 256, np.zeros_like(plane)], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(channels.astype(np.uint8)).save(path)


def save_photo(path: Path, photo: int | np.ndarray, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), photo, np.uint8) if isinstance(photo, int) else photo
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write_tables(root: Path, tables: Tables) -> None:
    rows = [{"name": name, "first": 1, "last": 9, "count": 1, "frequency": 1} for name in tables.categories]
    write_csv(root / "category.csv", ("name", "first", "last", "count", "frequency"), rows)
    labels = [
        {
            "number": number,
            "name": name,
            "category": ";".join(f"{category}(1)" for category in shares),
            "frequency": 1,
            "coverage": sum(shares.values()),
            "syns": "",
        }
        for number, (name, shares) in tables.labels.items()
    ]
    write_csv(root / "label.csv", ("number", "name", "category", "frequency", "coverage", "syns"), labels)
    for category in tables.categories:
        members = [
            (number, name, shares[category]) for number, (name, shares) in tables.labels.items() if category in shares
        ]
        write_csv(
            root / f"c_{category}.csv",
            ("code", "number", "name", "frequency", "coverage"),
            [
                {"code": code, "number": number, "name": name, "frequency": 1, "coverage": share}
                for code, (number, name, share) in enumerate(members, start=1)
            ],
        )


def write_broden(root: Path, tables: Tables, entries: Sequence[Entry]) -> None:
    """The whole set below ``root``; planes are named as ``joinseg.py`` names them."""
    root.mkdir(parents=True, exist_ok=True)
    write_tables(root, tables)
    rows = []
    for entry in entries:
        save_photo(root / "images" / entry.name, entry.photo, tables.size)
        row: dict[str, object] = {"image": entry.name, "split": entry.split}
        row |= dict(zip(("ih", "iw", "sh", "sw"), (*tables.size, *tables.mask_size), strict=True))
        for category, items in entry.items.items():
            cells = []
            for position, item in enumerate(items):
                if isinstance(item, int):
                    cells.append(str(item))
                    continue
                suffix = f"_{position + 1}" if len(items) > 1 else ""
                cells.append(f"{Path(entry.name).with_suffix('')}_{category}{suffix}.png")
                save_plane(root / "images" / cells[-1], item)
            row[category] = ";".join(cells)
        rows.append(row)
    columns = ("image", "split", "ih", "iw", "sh", "sw", *(tables.columns or tables.categories))
    write_csv(root / "index.csv", columns, rows)
