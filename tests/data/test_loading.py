"""Batches of one size; bad images raised or reported."""

import pytest
import torch

from lightning_interp.data.labels import LabelBank, LabelEncoder
from lightning_interp.data.loading import Reading, probe_batches, readable, scaled
from lightning_interp.errors import DatasetError
from tests.helpers.probes import RandomProbe


class Broken(RandomProbe):
    """Some images cannot be read, some labels are wrong, and one error is a bug."""

    def image(self, index):
        if index in (2, 5):
            raise OSError(f"{index}.jpg is truncated")
        if index == 8:
            raise KeyError("a bug")
        return super().image(index)

    def labels(self, index):
        if index == 3:
            raise DatasetError("3.png has label 999")
        return super().labels(index)


def batches(probe, indices, batch_size=4, known=(), **options):
    reading = Reading(batch_size=batch_size, **options)
    return list(probe_batches(LabelEncoder(probe, probe.mask_size), indices, reading, known=known))


@pytest.mark.parametrize("workers", [0, 2])
def test_one_shape_in_the_order_given(workers):
    probe, order = RandomProbe(7), [6, 1, 4, 0, 5, 2]
    found = batches(probe, order, num_workers=workers)
    assert [b.indices for b in found] == [[6, 1, 4, 0], [5, 2]]
    assert all(b.images.shape == (4, 3, 24, 24) for b in found)
    for b in found:
        assert all(torch.equal(image, probe.image(i)) for image, i in zip(b.images, b.indices, strict=False))
        assert len(b.regions) == len(b.indices)
    assert torch.equal(found[1].images[2], probe.image(2))
    assert torch.equal(found[1].images[3], probe.image(2))


def test_no_images():
    assert batches(RandomProbe(3), []) == []


def test_labels_known_already_are_not_read_again():
    probe = RandomProbe(3)
    bank = LabelBank(LabelEncoder(probe, probe.mask_size), False)
    bank.ensure([1])
    (batch,) = batches(probe, [0, 1, 2], known=bank)
    assert [regions is None for regions in batch.regions] == [False, True, False]


def test_images_alone_need_no_labels():
    reading = Reading(batch_size=3, on_bad_image="skip")
    found = list(probe_batches(Broken(6), range(6), reading))
    # Of image 3 the labels alone are bad.
    assert [b.indices for b in found] == [[0, 1], [3, 4]]
    assert [b.regions for b in found] == [[None, None]] * 2


def test_scaled_images():
    assert torch.equal(scaled(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0, 51, 255]) / 255)
    assert torch.equal(scaled(torch.tensor([0.5, 3.0], dtype=torch.float64)), torch.tensor([0.5, 3.0]))


def test_what_is_left_when_bad_images_are():
    assert readable([4, 2, 7], {2: "truncated"}) == [4, 7]
    with pytest.raises(DatasetError, match="no image of the probe set can be read; first: truncated"):
        readable([2], {2: "truncated"})


@pytest.mark.parametrize(("index", "error"), [(2, OSError), (3, DatasetError), (8, KeyError)])
def test_bad_images_raise(index, error):
    with pytest.raises(error):
        batches(Broken(9), [index])


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_skipped_and_named(workers):
    found = batches(Broken(8), range(8), batch_size=3, on_bad_image="skip", num_workers=workers)
    assert [b.indices for b in found] == [[0, 1], [4], [6, 7]]
    reasons = [item for b in found for item in b.skipped]
    assert reasons == [
        (2, "OSError: 2.jpg is truncated"),
        (3, "DatasetError: 3.png has label 999"),
        (5, "OSError: 5.jpg is truncated"),
    ]
    assert all(len(b.images) == 3 for b in found)


def test_a_batch_of_bad_images_only():
    (batch,) = batches(Broken(8), [2, 5], on_bad_image="skip")
    assert batch.indices == batch.regions == []
    assert len(batch.skipped) == 2


def test_bugs_are_never_skipped():
    with pytest.raises(KeyError, match="a bug"):
        batches(Broken(9), [8], on_bad_image="skip")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.zeros(24, 24), r"\(24, 24\) of torch.float32"),
        (torch.zeros(3, 24, 24, dtype=torch.int64), "torch.int64"),
        ([[0.0]], "list"),
    ],
)
def test_what_is_no_image(image, found):
    class Odd(RandomProbe):
        def image(self, index):
            return image

    with pytest.raises(DatasetError, match=f"image 0 of Odd is .*{found}.*; expected"):
        batches(Odd(1), [0])


@pytest.mark.parametrize("other", [torch.zeros(3, 24, 23), torch.zeros(3, 24, 24, dtype=torch.uint8)])
def test_images_of_one_set_are_alike(other):
    """Bytes among floats would be taken for values up to 255."""

    class Mixed(RandomProbe):
        def image(self, index):
            return super().image(index) if index else other

    with pytest.raises(DatasetError, match="must have one shape and type; found"):
        batches(Mixed(2), [0, 1])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_left_alone(workers):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    batches(RandomProbe(5), range(5), num_workers=workers)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("lost", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_dies_while_its_batch_is_fetched_is_named(monkeypatch, lost):
    """Torch says so itself, but for the moment between the closing of a process's sockets and its end."""

    def dies(loader):
        yield from ()
        raise lost

    monkeypatch.setattr("lightning_interp.data.loading.DataLoader.__iter__", dies)
    with pytest.raises(RuntimeError, match=f"exited unexpectedly.*{type(lost).__name__}.*num_workers=0"):
        batches(RandomProbe(3), range(3), num_workers=1)


def test_what_the_probe_set_raises_in_a_loader_process_stays_what_it_is():
    class Remote(RandomProbe):
        def image(self, index):
            raise ConnectionResetError("the picture server hung up")

    with pytest.raises(ConnectionResetError, match="the picture server hung up"):
        batches(Remote(3), range(3), num_workers=1)


def test_a_missing_file_is_no_lost_process_where_there_is_none():
    class Missing(RandomProbe):
        def image(self, index):
            raise FileNotFoundError("3.jpg")

    with pytest.raises(FileNotFoundError, match=r"3\.jpg"):
        batches(Missing(3), range(3))


def test_reading_out_of_range():
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"byte_budget": -1}, "byte_budget must be at least 0, got -1"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be 'raise' or 'skip', got 'ignore'"),
        ({"loader_timeout": 0.0}, "loader_timeout must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Reading(**options)
        with pytest.raises(ValueError, match=message):
            Reading().but("Engine", **options)


def test_reading_but_other_options():
    reading = Reading(byte_budget=5).but("Engine", batch_size=2)
    assert (reading.byte_budget, reading.batch_size, reading.num_workers) == (5, 2, 0)
    with pytest.raises(TypeError, match="Engine: unknown option 'batchsize'; did you mean 'batch_size'"):
        reading.but("Engine", batchsize=3)
    with pytest.raises(TypeError, match="Engine: unknown option 'top'; there are batch_size, num_workers"):
        reading.but("Engine", top=3)


@pytest.mark.parametrize(
    ("most", "found"), [(None, [5, 6, 7, 8]), (9, [5, 6, 7, 8]), (3, [5, 6, 7]), (2, [5, 7]), (1, [5])]
)
def test_samples_are_spread_evenly(most, found):
    assert Reading(max_samples=most).spread([5, 6, 7, 8]) == found
    assert Reading(max_samples=most).spread([]) == []
