import pytest

from lightning_interp.schedule import Every


def probed(every, epochs, max_epochs=None, last=None, calls=1):
    """Epochs in which a probe is made, asking ``calls`` times an epoch."""
    found = []
    for epoch in epochs:
        for _ in range(calls):
            if every.due(epoch, last, max_epochs):
                found.append(epoch)
                last = epoch
    return found


@pytest.mark.parametrize(
    ("every", "max_epochs", "found"),
    [
        (Every(), 4, [0, 1, 2, 3]),
        (Every(2), 5, [0, 2, 4]),
        (Every(2), 6, [0, 2, 4, 5]),
        (Every(2, at_end=False), 6, [0, 2, 4]),
        (Every(4), None, [0, 4]),
        (Every(100), 6, [0, 5]),
        (Every(100), 1, [0]),
    ],
)
def test_epochs(every, max_epochs, found):
    assert probed(every, range(6 if max_epochs is None else max_epochs), max_epochs) == found


def test_never_twice_in_an_epoch():
    assert probed(Every(2), range(4), 4, calls=3) == [0, 2, 3]


def test_goes_on_after_a_resume():
    assert probed(Every(2), range(3, 8), 8, last=2) == [4, 6, 7]


def test_missed_epochs_do_not_shift_what_is_due():
    """Validation every third epoch: probed whenever at least n epochs have passed."""
    assert probed(Every(2), [2, 5, 8]) == [2, 5, 8]


@pytest.mark.parametrize("n_epochs", [0, -1])
def test_too_few_epochs(n_epochs):
    with pytest.raises(ValueError, match=f"n_epochs must be at least 1, got {n_epochs}"):
        Every(n_epochs)
