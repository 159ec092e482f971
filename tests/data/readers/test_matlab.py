"""MATLAB files of both formats give the same plain values; what cannot be read is named."""

import numpy as np
import pytest

from lightning_interp import _extras
from lightning_interp.data.readers import matlab
from lightning_interp.data.readers.matlab import read_matlab, records
from lightning_interp.errors import DatasetError, MissingExtraError
from tests.helpers.absent import hide

PARTS = {"center": np.array([[1.0, 2.0], [3.0, 4.0]]), "none": np.zeros((0, 0)), "ID": 7.0}


def same(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, str):
        return found == expected
    return isinstance(found, np.ndarray) and found.tolist() == np.asarray(expected).tolist()


def test_records_do_not_depend_on_how_many_there_are():
    one = {"a": 1}
    assert records(one) == records([one]) == [one]
    assert records([one, one, 3]) == [one, one]
    assert records(np.zeros(0)) == records("text") == []


def test_simplified_values_become_plain():
    objects = np.empty(2, dtype=object)
    objects[:] = [{"ID": 3}, "text"]
    assert same(matlab._plain(objects), [{"ID": np.array(3)}, "text"])


def test_missing_files_and_damaged_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"a\.mat: No such file"):
        read_matlab(tmp_path / "a.mat", "anno")

    class Library:
        @staticmethod
        def loadmat(*_args, **_kwargs):
            raise ValueError("Unknown mat file type")

    (tmp_path / "b.mat").write_bytes(b"nothing of the kind")
    monkeypatch.setattr(matlab, "require", lambda name: Library)
    with pytest.raises(DatasetError, match=r"b\.mat: variable 'anno' is not readable: ValueError: Unknown"):
        read_matlab(tmp_path / "b.mat", "anno")


@pytest.mark.parametrize(("content", "library"), [(b"MATLAB 5.0", "scipy"), (b"MATLAB 7.3 MAT-file", "h5py")])
def test_the_library_that_is_missing_is_named(tmp_path, monkeypatch, content, library):
    (tmp_path / "a.mat").write_bytes(content)
    hide(monkeypatch, {library})
    monkeypatch.setitem(_extras._EXTRA_OF, library, "matlab")
    with pytest.raises(MissingExtraError, match=library):
        read_matlab(tmp_path / "a.mat", "anno")


@pytest.mark.skipif(not _extras.available("scipy"), reason="SciPy writes the file")
def test_format_5(tmp_path):
    import scipy.io

    objects = np.zeros((1, 2), dtype=[("class", object), ("parts", object)])
    objects[0, 0], objects[0, 1] = ("dog", PARTS), ("cat", np.zeros((0, 0)))
    scipy.io.savemat(tmp_path / "a.mat", {"anno": {"imname": "2008_1", "objects": objects}}, do_compression=True)
    expected = {
        "imname": "2008_1",
        "objects": [{"class": "dog", "parts": PARTS | {"none": []}}, {"class": "cat", "parts": []}],
    }
    assert same(read_matlab(tmp_path / "a.mat", "anno"), expected)
    with pytest.raises(DatasetError, match="variable 'truth' is not readable: KeyError"):
        read_matlab(tmp_path / "a.mat", "truth")


@pytest.mark.skipif(not _extras.available("h5py"), reason="h5py writes the file")
def test_format_7_3(tmp_path):
    """As MATLAB writes it: axes reversed, text as numbers, empty as its shape, arrays of structures as references."""
    import h5py

    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(name, value, kind, **attributes):
            file[name] = value
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
            file[name].attrs.update(attributes)
            return file[name].ref

        centres = [put(f"#refs#/{n}", PARTS["center"].T + n, "double") for n in range(2)]
        empty = put("#refs#/e", np.array([0, 0], dtype=np.uint64), "double", MATLAB_empty=1)
        put("#refs#/o/name", np.array([[100], [111], [103]], dtype=np.uint16), "char")
        put("#refs#/o/ID", np.array([[7.0]]), "double")
        reference = h5py.special_dtype(ref=h5py.Reference)
        for key, values in (("center", centres), ("obj", [file["#refs#/o"].ref, empty])):
            column = file.create_dataset(f"truth/{key}", (2, 1), dtype=reference)
            column[:, 0] = values
        cells = file.create_dataset("cells", (2, 1), dtype=reference)
        cells[:, 0] = [empty, centres[0]]
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file")
    assert same(
        read_matlab(path, "truth"),
        [
            {"center": PARTS["center"], "obj": {"name": "dog", "ID": 7.0}},
            {"center": PARTS["center"] + 1, "obj": []},
        ],
    )
    assert same(read_matlab(path, "cells"), [[], PARTS["center"]])
    with pytest.raises(DatasetError, match="variable 'anno' is not readable: KeyError"):
        read_matlab(path, "anno")
