"""Masks of concepts from regions: what the label planes say."""

import torch

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.functional.regions import region_masks
from tests.helpers.probes import RandomProbe


def test_masks_are_those_of_the_planes():
    probe = RandomProbe(7)
    bank = LabelBank(LabelEncoder(probe, probe.mask_size), every_image_counts=True)
    images = [3, 0, 5, 1]
    bank.ensure(images)
    columns = [4, 1, 5, 0]
    masks = region_masks(bank.batch(images), columns, probe.mask_size)
    assert masks.shape == (4, 4, 12, 12)
    assert masks.dtype == torch.bool
    for row, image in enumerate(images):
        labels = probe.labels(image)
        planes = torch.cat([plane.reshape(-1, 12, 12) for plane in labels.planes.values()])
        for place, column in enumerate(columns):
            number = probe.concepts[column].number
            expected = (planes == number).any(0) | any(number in numbers for numbers in labels.image.values())
            assert torch.equal(masks[row, place], expected), (image, number)
    assert 0 < masks[:, 1].sum() < masks[:, 1].numel()
    assert not masks[:, 2].any()
