import pytest

from lightning_interp import errors
from lightning_interp.errors import DatasetError, InterpError, LayerError, MissingExtraError, ProbeError, ResponseError


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (DatasetError, ValueError),
        (LayerError, ValueError),
        (ResponseError, LayerError),
        (ProbeError, RuntimeError),
        (MissingExtraError, ImportError),
    ],
)
def test_every_error_is_ours_and_a_builtin_too(error, builtin):
    with pytest.raises(InterpError, match="what") as caught:
        raise error("what")
    assert isinstance(caught.value, builtin)


def test_no_error_of_ours_is_outside_the_base():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__]
    assert len(classes) == 6
    assert all(issubclass(c, InterpError) for c in classes)
