import pickle
import warnings

import pytest

from lightning_interp.logging.guard import Guard


def fail(guard, kind):
    with guard(kind):
        raise OSError("disk full")


def test_one_warning_a_kind_and_instance():
    guard = Guard("dissect")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fail(guard, "figures")
        fail(guard, "figures")
        fail(guard, "files")
        fail(Guard("dissect"), "figures")
    end = ": OSError: disk full. Training goes on; this is said once."
    kinds = ["figures", "files", "figures"]
    assert [str(warning.message) for warning in seen] == [f"dissect: could not write {k}{end}" for k in kinds]
    assert {warning.filename for warning in seen} == {__file__}


def test_raise_lets_the_error_through():
    with pytest.raises(OSError, match="disk full"):
        fail(Guard("dissect", on_error="raise"), "figures")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(interrupt):
    with pytest.raises(interrupt), Guard("dissect")("figures"):
        raise interrupt


def test_success_is_silent():
    with warnings.catch_warnings(), Guard("dissect")("figures"):
        warnings.simplefilter("error")


def test_a_guard_is_picklable_and_remembers():
    guard = Guard("dissect")
    with pytest.warns(UserWarning, match="disk full"):
        fail(guard, "figures")
    fail(pickle.loads(pickle.dumps(guard)), "figures")


def test_refuses_an_unknown_policy():
    with pytest.raises(ValueError, match="ignore"):
        Guard("dissect", on_error="ignore")
