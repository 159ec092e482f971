"""Label planes as regions: nothing lost, nothing counted twice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_interp.functional.regions import (
    BadPlaneError,
    UnknownLabelError,
    concept_lookup,
    concept_pixels,
    encode_regions,
    stack_regions,
)

NUMBERS = [2, 3, 7, 300]
LOOKUP = concept_lookup(NUMBERS)


def dense(regions, num_concepts):
    """(C, pixels) bool."""
    carried = np.zeros((regions.size, num_concepts), dtype=bool)
    carried[regions.region, regions.concept] = True
    return carried[regions.map].T


def expected_dense(planes, image_labels, numbers):
    stack = [one.reshape(-1) for plane in planes.values() for one in plane.numpy().reshape(-1, *plane.shape[-2:])]
    whole = {n for numbers_of in image_labels.values() for n in numbers_of}
    pixels = stack[0].shape[0]
    return np.array([np.logical_or.reduce([one == n for one in stack]) | np.full(pixels, n in whole) for n in numbers])


@given(
    maps=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 4), st.just(3), st.just(5)), elements=st.sampled_from([0, *NUMBERS])
    ),
    other=hnp.arrays(np.int64, (3, 5), elements=st.sampled_from([0, *NUMBERS])),
    whole=st.lists(st.sampled_from([0, *NUMBERS]), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_decodes_to_the_sets_of_labels(maps, other, whole):
    planes = {"part": torch.from_numpy(maps), "object": torch.from_numpy(other)}
    regions = encode_regions(planes, {"scene": whole}, LOOKUP, (3, 5))
    expected = expected_dense(planes, {"scene": whole}, NUMBERS)
    assert np.array_equal(dense(regions, 4), expected)
    assert np.array_equal(concept_pixels(regions, 4), expected.sum(1))
    pairs = list(zip(regions.region.tolist(), regions.concept.tolist(), strict=True))
    assert pairs == sorted(set(pairs))


def test_by_hand():
    planes = {
        "object": torch.tensor([[2, 2, 0], [2, 0, 0], [0, 0, 3]]),
        "part": torch.tensor([[2, 7, 0], [0, 0, 0], [0, 0, 3]]),  # 2 and 3 named twice at a pixel
    }
    regions = encode_regions(planes, {}, LOOKUP, (3, 3))
    assert concept_pixels(regions, 4).tolist() == [3, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_any_integer_type(dtype):
    plane = torch.tensor([[0, 7, 2]]).to(dtype)
    assert concept_pixels(encode_regions({"a": plane}, {}, LOOKUP, (1, 3)), 4).tolist() == [1, 0, 1, 0]


def test_label_above_the_range_of_int16():
    lookup = concept_lookup([51_210])
    plane = torch.tensor([[51_210, 0]], dtype=torch.uint16)
    assert concept_pixels(encode_regions({"a": plane}, {}, lookup, (1, 2)), 1).tolist() == [1]
    with pytest.raises(UnknownLabelError, match="-14326 in 'a'"):
        encode_regions({"a": torch.tensor([[51_210, 0]]).to(torch.int16)}, {}, lookup, (1, 2))


def test_no_planes_at_all():
    nothing = encode_regions({}, {}, LOOKUP, (2, 2))
    assert nothing.size == 1
    assert concept_pixels(nothing, 4).tolist() == [0, 0, 0, 0]
    everywhere = encode_regions({}, {"scene": [7, 7, 0]}, LOOKUP, (2, 2))
    assert concept_pixels(everywhere, 4).tolist() == [0, 0, 4, 0]
    no_plane_in_stack = encode_regions({"part": torch.zeros(0, 2, 2, dtype=torch.int64)}, {}, LOOKUP, (2, 2))
    assert concept_pixels(no_plane_in_stack, 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("side", "dtype"), [(2, np.uint8), (16, np.uint8), (17, np.uint16), (256, np.uint16), (257, np.uint32)]
)
def test_number_of_regions_has_no_limit(side, dtype):
    """Every pixel its own pair of labels: side * side regions, past what one and two bytes can number."""
    lookup = concept_lookup(range(1, 2 * side + 1))
    rows = torch.arange(side)[:, None].expand(side, side) + 1
    regions = encode_regions({"a": rows, "b": rows.T + side}, {}, lookup, (side, side))
    assert regions.size == side * side
    assert regions.map.dtype == dtype
    assert concept_pixels(regions, 2 * side).tolist() == [side] * (2 * side)
    batch = stack_regions([regions, regions])
    assert batch.map.max() == 2 * side * side - 1
    assert (batch.start.diff() == 2).all()


@pytest.mark.parametrize("number", [-1, 1, 5, 301, 2**40])
def test_unknown_numbers_are_refused(number):
    with pytest.raises(UnknownLabelError, match=f"label number {number} in 'a'"):
        encode_regions({"a": torch.tensor([[2, number]])}, {}, LOOKUP, (1, 2))
    with pytest.raises(UnknownLabelError, match=f"label number {number} in 'scene'"):
        encode_regions({}, {"scene": [number]}, LOOKUP, (1, 2))


@pytest.mark.parametrize("plane", [torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.complex64)])
def test_planes_must_be_of_integers(plane):
    with pytest.raises(BadPlaneError, match="label numbers are integers"):
        encode_regions({"a": plane}, {}, LOOKUP, (2, 2))


@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 1, 2, 2)])
def test_planes_must_have_the_size(shape):
    with pytest.raises(BadPlaneError, match="expected"):
        encode_regions({"a": torch.zeros(shape, dtype=torch.int64)}, {}, LOOKUP, (2, 2))


def test_lookup_without_concepts():
    assert concept_lookup([]).tolist() == [-1]


def test_stacking_numbers_regions_through():
    one = encode_regions({"a": torch.tensor([[2, 0], [3, 3]])}, {}, LOOKUP, (2, 2))
    two = encode_regions({}, {"s": [7, 300]}, LOOKUP, (2, 2))
    batch = stack_regions([one, two])
    concepts = [batch.concept[batch.start[r] : batch.start[r + 1]].tolist() for r in batch.map.flatten()]
    assert concepts == [[0], [], [1], [1], [2, 3], [2, 3], [2, 3], [2, 3]]
