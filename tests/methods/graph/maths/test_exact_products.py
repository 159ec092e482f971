"""Products at full precision, and settings left as they were."""

import pytest
import torch

from lightning_interp.methods.graph.maths.exact_products import exact_products

CPU = torch.device("cpu")


def error():
    one, other = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    return (one @ other - one.double() @ other.double()).abs().max().item()


def test_products_under_autocast_are_those_of_float32():
    one, other = torch.rand(2, 40, 40).unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (one @ other).dtype == torch.bfloat16
        with exact_products(CPU):
            assert torch.equal(one @ other, one.mm(other))
            assert (one @ other).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_setting_of_all_backends_is_put_back(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        with exact_products(CPU):
            inside = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, error() < 1e-4
        assert inside == ("highest", False, True)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "medium")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_error_inside_puts_back_too():
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError, match="own"), exact_products(CPU):
            raise KeyError("own")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has one setting"
)
def test_the_setting_of_one_backend_is_put_back():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with exact_products(CPU):
            inside = torch.backends.cuda.matmul.fp32_precision, error() < 1e-4
        assert inside == ("ieee", True)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
