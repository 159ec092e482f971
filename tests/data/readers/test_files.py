"""Opening files safely: paths, headers, photos, masks, digests, JSON."""

import hashlib
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lightning_interp.data.probe import Concept, Labels
from lightning_interp.data.readers.files import (
    IMAGENET,
    INDEX_MASK,
    PHOTO,
    Files,
    PhotoSet,
    nearest,
    number_table,
    read_json,
    translate,
    write_manifest,
)
from lightning_interp.errors import DatasetError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "root/sub").mkdir(parents=True)
    return Files.below(tmp_path / "root")


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG made by hand, so that its header may lie and its bits are known."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Set(PhotoSet):
    def labels(self, index: int) -> Labels:
        return Labels()


def photo_set(files: Files, normalize: object = "imagenet", **sizes: object) -> Set:
    Image.new("RGB", (4, 4)).save(files.root / "a.png")
    options = {"size": (2, 2), "mask_size": (2, 2)} | sizes
    return Set(files, ["a.png"], [Concept(1, "x", "object")], normalize=normalize, **options)


def test_locate(files: Files) -> None:
    (files.root / "sub/a.png").touch()
    (files.root / "link.png").symlink_to(files.root / "sub/a.png")
    (files.root.parent / "secret.png").touch()
    (files.root / "out.png").symlink_to(files.root.parent / "secret.png")
    (files.root / "outside").symlink_to(files.root.parent)
    (files.root / "loop.png").symlink_to(files.root / "loop.png")
    assert files.locate("a.png", "sub") == files.locate("sub/a.png") == files.locate("./sub/a.png") == "sub/a.png"
    assert files.locate("link.png") == "link.png"
    for name, message in (
        ("../secret.png", "'..' are refused"),
        ("sub/../sub/a.png", "'..' are refused"),
        (str(files.root / "sub/a.png"), "absolute"),
        ("out.png", "leaves the folder"),
        ("outside/secret.png", "leaves the folder"),
        ("loop.png", "loop.png"),
        ("sub", "not a file"),
        ("none.png", "No such file"),
        ("a\0b", "null"),
        ("a" * 5000, "too long"),
    ):
        with pytest.raises(DatasetError, match=message):
            files.locate(name)


def test_root_has_to_exist_and_may_be_a_link(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none: no such folder"):
        Files.below(tmp_path / "none")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Files.below(tmp_path / "link").locate("a.png") == "a.png"


def test_huge_image_is_refused_by_its_header(files: Files) -> None:
    # 20,000 x 20,000 is past PIL's own error, 8,000 x 8,000 below its warning; neither holds any pixels.
    for side in (8_000, 20_000):
        (files.root / "bomb.png").write_bytes(png(side, side, 8, 0, b""))
        for read in (files.size, lambda name, kind: files.photo(name, None)):
            with pytest.raises(DatasetError, match=r"bomb\.png: .*pixels"):
                read("bomb.png", PHOTO)
    assert Files.below(files.root, max_pixels=64_000_000).root == files.root


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        ("empty.jpg", b""),
        ("zeros.png", bytes(500)),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
        ("header.png", png(4, 4, 8, 0, b"")[:40]),
    ],
)
def test_what_is_no_image(files: Files, name: str, content: bytes) -> None:
    (files.root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}: not readable as a photo"):
        files.photo(name, None)


def test_damage_that_only_decoding_finds(files: Files) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(files.root / "cut.jpg")
    content = (files.root / "cut.jpg").read_bytes()
    (files.root / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert files.size("cut.jpg", PHOTO) == (64, 64)
    with pytest.raises(DatasetError, match=r"cut\.jpg: .*truncated"):
        files.photo("cut.jpg", None)
    Image.fromarray(noise).save(files.root / "flip.png")
    content = bytearray((files.root / "flip.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (files.root / "flip.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"flip\.png: not readable"):
        files.photo("flip.png", None)


def test_load_truncated_images_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(files.root / "a.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for read in (lambda: files.size("a.png", PHOTO), lambda: files.photo("a.png", None)):
        with pytest.raises(DatasetError, match="LOAD_TRUNCATED_IMAGES"):
            read()


def test_photo_modes(files: Files) -> None:
    grey = np.array([[0, 255], [128, 7]], dtype=np.uint8)
    rgb = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    Image.fromarray(grey).save(files.root / "grey.png")
    Image.fromarray(rgb).save(files.root / "rgb.png")
    Image.fromarray(np.dstack([rgb, np.full((2, 2), 9, np.uint8)])).save(files.root / "rgba.png")
    palette = Image.fromarray(grey % 2)
    palette = palette.convert("P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.save(files.root / "palette.png", transparency=b"\x00\x80")
    assert files.photo("grey.png", None).tolist() == [grey.tolist()] * 3
    for name in ("rgb.png", "rgba.png"):
        photo = files.photo(name, None)
        assert photo.tolist() == rgb.transpose(2, 0, 1).tolist()
    assert photo.dtype == torch.uint8
    assert photo.is_contiguous()
    assert files.photo("palette.png", None)[:, 0, 0].tolist() == [1, 2, 3]
    Image.fromarray(grey.astype(np.uint16)).save(files.root / "deep.png")
    with pytest.raises(DatasetError, match=r"deep\.png: mode I;16 is not that of a photo"):
        files.photo("deep.png", None)


def test_photo_is_scaled_with_antialiasing(files: Files) -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (8, 32))
    Image.fromarray(stripes).save(files.root / "stripes.png")
    photo = files.photo("stripes.png", (4, 8))
    assert photo.shape == (3, 4, 8)
    # Every second pixel alone would be all black or all white.
    assert ((photo > 110) & (photo < 145)).all()


def test_mask_values_are_what_is_stored(files: Files) -> None:
    index = np.array([[0, 1, 2], [3, 255, 7]], dtype=np.uint8)
    Image.fromarray(index).save(files.root / "grey.png")
    palette = Image.frombytes("P", (3, 2), index.tobytes())
    palette.putpalette([value % 256 for value in range(5, 773)])
    palette.save(files.root / "palette.png")
    Image.fromarray(index.astype(np.uint16) * 200).save(files.root / "deep.png")
    for name, expected in (("grey.png", index), ("palette.png", index), ("deep.png", index * np.int32(200))):
        mask = files.mask(name, INDEX_MASK, (2, 3))
        assert mask.tolist() == expected.tolist()
        assert mask.dtype == np.int32
    assert files.mask("deep.png", INDEX_MASK, (2, 3))[1, 1] == 51_000


@pytest.mark.parametrize("color", [0, 3])
@pytest.mark.parametrize(("depth", "row"), [(1, 0b0100_0000), (2, 0b00_01_10_11), (4, 0x0F)])
def test_mask_of_few_bits(files: Files, depth: int, row: int, color: int) -> None:
    width = min(8 // depth, 4)
    content = png(width, 1, depth, color, bytes([0, row]))
    if color == 3:  # a palette has to stand before the data
        palette = b"PLTE" + bytes(range(3 * 2**depth))
        chunk = struct.pack(">I", 3 * 2**depth) + palette + struct.pack(">I", zlib.crc32(palette))
        content = content[:33] + chunk + content[33:]
    (files.root / "few.png").write_bytes(content)
    expected = {1: [0, 1, 0, 0], 2: [0, 1, 2, 3], 4: [0, 15]}[depth]
    assert files.mask("few.png", INDEX_MASK, (1, width)).tolist() == [expected]


def test_mask_of_wrong_kind_or_size(files: Files) -> None:
    Image.new("RGB", (4, 4)).save(files.root / "rgb.png")
    Image.new("L", (4, 4)).save(files.root / "lossy.jpg")
    Image.new("L", (4, 3)).save(files.root / "small.png")
    for name, message in (
        ("rgb.png", r"rgb\.png: mode RGB is not that of an index mask"),
        ("lossy.jpg", r"lossy\.jpg: not readable as an index mask"),
        ("small.png", r"small\.png: size \(3, 4\) \(h, w\), expected \(4, 4\)"),
    ):
        with pytest.raises(DatasetError, match=message):
            files.mask(name, INDEX_MASK, (4, 4))


def test_verify_finds_zeroed_bytes_that_decode(files: Files) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(files.root / "sub/a.jpg")
    path = files.root / "sub/a.jpg"
    good = path.read_bytes()
    assert json.loads(write_manifest(files.root).read_text()) == {"sub/a.jpg": hashlib.sha256(good).hexdigest()}
    checked = Files.below(files.root, verify=True)
    assert torch.equal(checked.photo(checked.locate("a.jpg", "sub"), None), files.photo("sub/a.jpg", None))
    before = files.photo("sub/a.jpg", None)
    path.write_bytes(good[:2000] + bytes(400) + good[2400:])
    assert not torch.equal(files.photo("sub/a.jpg", None), before)  # decodes, and is another picture
    with pytest.raises(DatasetError, match=r"a\.jpg: SHA-256"):
        checked.photo("sub/a.jpg", None)
    (files.root / "new.jpg").write_bytes(good)
    with pytest.raises(DatasetError, match=r"'new\.jpg' is not in the manifest"):
        checked.locate("new.jpg")


def test_bad_manifest(files: Files) -> None:
    for text in ("[]", '{"a": 1}', "{"):
        (files.root / "manifest.json").write_text(text)
        with pytest.raises(DatasetError, match=r"manifest\.json"):
            Files.below(files.root, verify=True)
        assert Files.below(files.root).digests is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"z": 0, "a": 1,\n "a": 2}', "key 'a' stands twice"),
        (b'{"a": 1,\n b}', "line 2, column 2"),
        (b"[" * 100_000, "RecursionError"),
        (b'"\xff"', "UnicodeDecodeError"),
        (b"9" * 5000, "ValueError"),
    ],
)
def test_bad_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(caught.value)


@pytest.mark.parametrize("old", [1, 3, 7, 112, 224])
@pytest.mark.parametrize("new", [1, 2, 5, 56, 112, 113])
def test_nearest_is_nearest_exact(old: int, new: int) -> None:
    plane = np.arange(old * 4, dtype=np.int32).reshape(old, 4)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(plane).double()[None, None], size=(new, 3), mode="nearest-exact"
    )
    assert nearest(plane, (new, 3)).tolist() == expected[0, 0].int().tolist()


def test_translate_names_the_value_and_its_place() -> None:
    table = number_table({7: 70, 255: 0})
    assert translate(np.array([[0, 7], [255, 7]], dtype=np.int32), table, Path("m.png")).tolist() == [
        [0, 70],
        [0, 70],
    ]
    with pytest.raises(DatasetError, match=r"m\.png: label 8 at row 1, column 0 is not declared"):
        translate(np.array([[0, 7], [8, 9]], dtype=np.int32), table, Path("m.png"))


def test_photo_set_settings(files: Files) -> None:
    assert photo_set(files).normalize == IMAGENET
    assert photo_set(files, None).normalize is None
    assert photo_set(files, [[0, 0, 0], [1, 1, 1]]).normalize == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for bad in ("image-net", [[0, 0, 0]], [[0, 0], [1, 1]], [[0, 0, 0], [1, 0, 1]], [["a"] * 3, [1] * 3], 5):
        with pytest.raises(DatasetError, match="normalize="):
            photo_set(files, bad)
    for bad in ((0, 4), (4,), (4.0, 4), (10_000, 10_000)):
        with pytest.raises(DatasetError, match="mask_size"):
            photo_set(files, mask_size=bad)
    with pytest.raises(DatasetError, match="no image"):
        Set(files, [], [], size=None, mask_size=(2, 2), normalize=None)


def test_photo_set_survives_a_worker(files: Files) -> None:
    probe = photo_set(files)
    copy = pickle.loads(pickle.dumps(probe))
    assert copy.fingerprint() == probe.fingerprint()
    assert torch.equal(copy[0].image, probe[0].image)
    with pytest.raises(IndexError):
        probe[1]
