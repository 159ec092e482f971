"""A result as plain numbers and words by the path of each field, and what differs between two of these."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch

# Larger than what another order of summing makes of float64, or the last bit of a float32 of one image in the mean.
RELATIVE, ABSOLUTE = 1e-5, 1e-8
# Arrays of up to so many numbers are written in full; of the others a sample.
FULL, SAMPLE = 24, 8
CLOCKS = ("seconds",)


def freeze(thing, path=""):
    """By path, every number, word and array of anything made of dataclasses, tuples, dicts, lists and arrays."""
    found = {}
    _freeze(found, path, thing)
    return found


def _freeze(found, path, thing):
    if path.rsplit("/", 1)[-1].rsplit(".", 1)[-1] in CLOCKS:
        found[path] = "a wall time"
    elif isinstance(thing, torch.Tensor | np.ndarray):
        found[path] = _array(np.asarray(thing))
    elif is_dataclass(thing):
        for field in fields(thing):
            _freeze(found, _join(path, field.name), getattr(thing, field.name))
    elif isinstance(thing, tuple) and hasattr(thing, "_fields"):
        _freeze(found, path, thing._asdict())
    elif isinstance(thing, Mapping):
        if not thing:
            found[path] = {}
        for key, value in thing.items():
            _freeze(found, _join(path, key), value)
    elif isinstance(thing, Sequence) and not isinstance(thing, str):
        _freeze_list(found, path, thing)
    else:
        found[path] = _plain(path, thing)


def _freeze_list(found, path, thing):
    if all(_is_plain(each) for each in thing):
        found[path] = [_plain(path, each) for each in thing]
    elif len(thing) > 3 and all(is_dataclass(each) and _is_row(each) for each in thing):
        found[f"{path}.fields"] = [field.name for field in fields(thing[0])]
        found[path] = [[getattr(each, field.name) for field in fields(each)] for each in thing]
    else:
        found[f"{path}.length"] = len(thing)
        for number, each in enumerate(thing):
            _freeze(found, f"{path}[{number}]", each)


def _is_row(thing):
    return all(_is_plain(getattr(thing, field.name)) for field in fields(thing))


def _join(path, name):
    return f"{path}.{name}" if path else str(name)


def _is_plain(thing):
    return thing is None or isinstance(thing, str | bool | int | float | np.generic)


def _plain(path, thing):
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, Enum | Path) or not _is_plain(thing):
        raise TypeError(f"{path} is {thing!r:.80}, which has no frozen form")
    return thing


def _array(values):
    """Type, shape, and all numbers, or a digest of whole numbers, or sums and a sample of others."""
    form = {"type": str(values.dtype), "shape": list(values.shape)}
    flat = values.reshape(-1)
    if len(flat) <= FULL:
        return form | {"values": _shorter(flat)}
    places = np.linspace(0, len(flat) - 1, SAMPLE).astype(int)
    form |= {"sample": _shorter(flat[places])}
    if flat.dtype.kind != "f":
        numbers = flat.astype(np.int64)
        digest = hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:16]
        return form | {"sum": int(numbers.sum()), "mixed": int((numbers * _mixing(len(numbers))).sum()), "sha": digest}
    known = np.where(np.isfinite(flat), flat, 0).astype(np.float64)
    form |= {"nan": int(np.isnan(flat).sum()), "infinite": int(np.isinf(flat).sum())}
    # Of these the last changes with the order of the numbers.
    sums = [known.min(), known.max(), known.sum(), np.abs(known).sum(), (known * _mixing(len(known))).sum()]
    return form | dict(zip(("least", "largest", "sum", "size", "mixed"), _shorter(np.array(sums)), strict=True))


def _shorter(numbers):
    """To twelve digits: far more than are compared."""
    return [float(f"{each:.12g}") if isinstance(each, float) else each for each in numbers.tolist()]


def _mixing(count):
    return np.arange(count) * 7919 % 101


# What came later, beside what was frozen: whether a score is known; history and probe set in every state; how many
# images were skipped.
LATER = re.compile(r".*: [^ ]*_known(/[^/]*)?|state\.(history|probe)\b.*|(files\.bias\.json\.)?settings\.num_skipped")


def differences(frozen, found):
    """In words, every field that is missing, new but for :data:`LATER`, or another, with by how much."""
    found = {path: value for path, value in found.items() if path in frozen or not LATER.fullmatch(path)}
    told = [f"{path}: is gone; it was {_short(frozen[path])}" for path in frozen if path not in found]
    told += [f"{path}: is new: {_short(found[path])}" for path in found if path not in frozen]
    # Scores by their names before the sums of tables that hold them.
    for path in sorted((path for path in frozen if path in found), key=lambda path: ": " not in path):
        told += _compare(path, frozen[path], found[path])
    return told


def _compare(path, before, after, scale=0.0):
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        # What is summed may cancel; it is held against the sum of sizes.
        scales = {"sum": before.get("size", 0.0), "mixed": 101 * before.get("size", 0.0)}
        parts = [(f"{path} ({key})", before[key], after[key], scales.get(key) or 0.0) for key in before]
        return [line for part in parts for line in _compare(*part)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for number, pair in pairs for line in _compare(f"{path}[{number}]", *pair)]
    if isinstance(before, float) and isinstance(after, float):
        if _near(before, after, scale):
            return []
        return [f"{path}: {after!r}, frozen {before!r}, by {after - before:.3g}"]
    if type(before) is type(after) and before == after:
        return []
    if type(before) is type(after) is int:
        return [f"{path}: {after}, frozen {before}, by {after - before:+d}"]
    return [f"{path}: {_short(after)}, frozen {_short(before)}"]


def in_short(thing):
    """The same with large tables of scores, which are frozen elsewhere in full, as a digest of names and an array."""
    if isinstance(thing, Mapping):
        if len(thing) > 12 and all(isinstance(value, int | float) for value in thing.values()):
            thing = {name: value for name, value in thing.items() if "_known" not in name}
            values = [0.0 if name.rsplit("/", 1)[-1] in CLOCKS else value for name, value in thing.items()]
            return {"names": hashlib.sha256("\n".join(thing).encode()).hexdigest()[:16], "values": np.array(values)}
        return {key: in_short(value) for key, value in thing.items()}
    return [in_short(each) for each in thing] if isinstance(thing, list) else thing


def write(found, path):
    """Write frozen fields: those of several moments, ``<moment>: <field>``, as a table with a row a field."""
    table = [key for key in found if ": " in key]
    moments = list(dict.fromkeys(key.split(": ", 1)[0] for key in table))
    names = sorted({key.split(": ", 1)[1] for key in table})
    document = {
        "fields": {key: value for key, value in found.items() if ": " not in key},
        "moments": moments,
        "scores": {name: [found.get(f"{moment}: {name}") for moment in moments] for name in names},
    }
    lines = [
        f'"{part}": {{\n' + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in document[part].items()) + "\n}"
        for part in ("fields", "scores")
    ]
    path.write_text(f'{{\n{lines[0]},\n"moments": {json.dumps(moments)},\n{lines[1]}\n}}\n', encoding="utf-8")


def read(path):
    """Frozen fields as they were before :func:`write`."""
    document = json.loads(path.read_text(encoding="utf-8"))
    pairs = [
        (f"{moment}: {name}", value)
        for name, row in document["scores"].items()
        for moment, value in zip(document["moments"], row, strict=True)
        # Null stands for a score that there was not at that moment.
        if value is not None
    ]
    return document["fields"] | dict(pairs)


def _near(before, after, scale):
    if math.isnan(before) or math.isnan(after):
        return math.isnan(before) and math.isnan(after)
    if math.isinf(before) or math.isinf(after):
        return before == after
    return abs(before - after) <= ABSOLUTE + RELATIVE * max(abs(before), scale)


def _short(value):
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:150]}..."


def forms(folder):
    """By path of each file in a folder, what kind of thing it holds: keys, types, shapes and columns, no numbers."""
    found = {}
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            found[name] = json_form(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".csv":
            found[name] = path.read_text(encoding="utf-8").splitlines()[0]
        elif path.suffix == ".safetensors":
            # Named by its content, which is frozen elsewhere.
            name = f"{name[: name.index('graph-')]}graph-DIGEST.safetensors" if "graph-" in name else name
            found[name] = arrays_form(path)
        else:
            found[name] = "is there"
    return found


def json_form(document):
    if isinstance(document, dict):
        return {key: json_form(value) for key, value in document.items()} if len(document) <= 30 else "dict"
    # Null stands for NaN too.
    return "number" if isinstance(document, int | float | None) else type(document).__name__


def arrays_form(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: f"{own['dtype']} {own['shape']}" for name, own in sorted(header.items()) if name != "__metadata__"}
