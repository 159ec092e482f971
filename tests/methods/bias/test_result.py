"""What context-bias diagnostics say of themselves."""

from tests.helpers.bias_results import bias_result


def test_repr_is_one_line():
    assert repr(bias_result()) == (
        "BiasResult(lipstick by mouth; contexts: makeup, blond; 11 scores, 1 checks missing; 512 images, 1 examples)"
    )
    assert "contexts: none; 0 scores" in repr(bias_result({}, contexts={}))
