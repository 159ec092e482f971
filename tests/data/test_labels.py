"""Encoded labels: areas and members against the dense masks, other mask sizes, and errors that name the image."""

import pickle

import numpy as np
import pytest
import torch

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.probe import Labels
from lightning_interp.errors import DatasetError
from tests.helpers.probes import RandomProbe
from tests.methods.dissection.reference.dissection import labels_dense


def bank_of(probe, mask_size=None, every=False):
    bank = LabelBank(LabelEncoder(probe, mask_size or probe.mask_size), every)
    bank.ensure(range(len(probe)))
    return bank


@pytest.mark.parametrize("mask_size", [(12, 12), (24, 24), (6, 9), (5, 7), (1, 1)])
def test_areas_equal_dense_masks_at_any_size(mask_size):
    probe = RandomProbe(9)
    dense = np.stack([labels_dense(probe, i, mask_size) for i in range(9)])
    bank = bank_of(probe, mask_size)
    assert bank.concept_area(range(9)).tolist() == dense.sum((0, 2, 3)).tolist()
    assert bank.concept_area([4]).tolist() == dense[4].sum((1, 2)).tolist()
    shown = dense.any((2, 3))
    members = [
        [any(s for s, c in zip(shown[i], probe.concepts, strict=True) if c.category == g) for g in probe.categories]
        for i in range(9)
    ]
    assert bank.members(range(9)).tolist() == members
    assert bank.pixels(range(9)).tolist() == (np.sum(members, 0) * mask_size[0] * mask_size[1]).tolist()


def test_every_image_counts_if_asked():
    bank = bank_of(RandomProbe(5), every=True)
    assert bank.members(range(5)).all()
    assert bank.pixels(range(5)).tolist() == [5 * 144] * 5


def test_no_images():
    bank = bank_of(RandomProbe(2))
    assert bank.concept_area([]).tolist() == [0] * 7
    assert bank.pixels([]).tolist() == [0] * 5


def test_resampling_takes_the_nearest_pixel_centre():
    class Ramp(RandomProbe):
        def labels(self, index):
            return Labels({"object": torch.tensor([[2, 2, 300, 300], [0, 0, 0, 2]])})

    probe = Ramp(1, mask_size=(2, 4))
    regions = LabelEncoder(probe, (1, 2))(0)  # centres at row 1 of 2, columns 1 and 3 of 4
    assert regions.concept.tolist() == [0]
    doubled = bank_of(probe, (4, 8))
    assert doubled.concept_area([0]).tolist() == [12, 0, 0, 8, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
@pytest.mark.parametrize("mask_size", [(12, 12), (6, 6)])
def test_any_integer_type_of_plane(dtype, mask_size):
    class Typed(RandomProbe):
        def labels(self, index):
            planes = super().labels(index).planes
            return Labels({"object": torch.where(planes["object"] == 2, 2, 0).to(dtype)})

    probe = Typed(3)
    expected = sum(labels_dense(probe, i, mask_size)[0].sum() for i in range(3))
    assert bank_of(probe, mask_size).concept_area(range(3))[0] == expected


def test_reads_each_image_once():
    reads = []

    class Counting(RandomProbe):
        def labels(self, index):
            reads.append(index)
            return super().labels(index)

    bank = LabelBank(LabelEncoder(Counting(3), (12, 12)), False)
    assert 1 not in bank
    bank.ensure([1, 1, 2])
    bank.ensure([2, 1])
    assert reads == [1, 2]
    assert 1 in bank


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            Labels({"object": torch.full((12, 12), 4)}),
            "image 1 of Bad: label number 4 in 'object' belongs to no concept",
        ),
        (Labels({"object": torch.full((12, 12), -1)}), "label number -1"),
        (Labels({"object": torch.full((12, 12), 10**6)}), "label number 1000000"),
        (Labels({}, {"scene": (8,)}), "label number 8 in 'scene'"),
        (
            Labels({"object": torch.zeros(12, 11, dtype=torch.int64)}),
            r"shape \(12, 11\), expected \(h, w\) = \(12, 12\)",
        ),
        (Labels({"object": torch.zeros(12, 12)}), "dtype torch.float32; label numbers are integers"),
    ],
)
@pytest.mark.parametrize("mask_size", [(12, 12), (6, 6)])
def test_errors_name_the_image(labels, message, mask_size):
    class Bad(RandomProbe):
        def labels(self, index):
            return labels

    with pytest.raises(DatasetError, match=message):
        LabelEncoder(Bad(2), mask_size)(1)


def test_encoder_goes_to_other_processes():
    encoder = pickle.loads(pickle.dumps(LabelEncoder(RandomProbe(2), (6, 6))))
    assert np.array_equal(encoder(1).map, LabelEncoder(RandomProbe(2), (6, 6))(1).map)
