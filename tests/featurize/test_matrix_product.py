"""A product with a frozen matrix is what `torch.nn.functional.linear` gives, packed for the processor or not."""

import pytest
import torch
from torch import nn

from amma.featurize.encoders import matrix_product
from amma.featurize.encoders.matrix_product import MatrixProduct, packs


def linear(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs)


@pytest.fixture(params=["packed", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(matrix_product, "packs", lambda dtype: False)
    elif not packs(torch.float32):
        pytest.skip("this torch has no oneDNN")
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [1, 2, 17, 300])
@pytest.mark.parametrize("shape", [(8, 8), (48, 33), (320, 1280)], ids=str)
def test_fp32_is_exact_for_any_number_of_rows(rows: int, shape: tuple[int, int]) -> None:
    original = linear(*shape)
    value = torch.randn(rows, shape[0], generator=torch.Generator().manual_seed(rows))
    reference = nn.functional.linear(value.double(), original.weight.double(), original.bias.double())

    product = MatrixProduct(original.weight, original.bias)(value)

    assert product.dtype == torch.float32
    assert (product - reference).abs().max() <= 1e-6 * reference.square().mean().sqrt() * shape[0] ** 0.5


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_factors_and_result_only(dtype: torch.dtype) -> None:
    original = linear(640, 96)
    value = torch.randn(40, 640, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight, bias = original.weight.to(dtype).double(), original.bias.to(dtype).double()
    reference = nn.functional.linear(value.double(), weight, bias)

    product = MatrixProduct(original.weight.to(dtype), original.bias.to(dtype))(value)

    assert product.dtype == dtype
    # One rounding of the sum (and, in some kernels, one before the bias): not one for each of 640 terms.
    assert ((product - reference).abs() <= 2 * torch.finfo(dtype).eps * (1 + reference.abs())).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_a_bias_and_without_rows_it_is_a_product_still(dtype: torch.dtype) -> None:
    weight = linear(24, 16).weight.detach().to(dtype)
    product = MatrixProduct(weight)
    value = torch.ones(3, 24)

    assert torch.allclose(product(value), value.to(dtype) @ weight.T, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
    assert product(value[:0]).shape == (0, 16)
    assert product(value[:0]).dtype == dtype


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gelu_is_that_of_the_error_function(dtype: torch.dtype) -> None:
    original = linear(48, 96)
    value = 3 * torch.randn(40, 48, generator=torch.Generator().manual_seed(2))
    weight, bias = original.weight.to(dtype), original.bias.to(dtype)
    sums = nn.functional.linear(value.to(dtype).double(), weight.double(), bias.double())
    reference = sums * 0.5 * (1 + torch.erf(sums / 2**0.5))

    product = MatrixProduct(weight, bias, gelu=True)(value)

    assert (product - reference).abs().max() <= (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("how", ["missing", "changed", "wrong"])
def test_an_operator_that_another_torch_lacks_or_changed_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Operators:
        def __getattr__(self, name: str) -> object:
            if how == "missing":
                raise AttributeError(name)
            if how == "changed":
                return lambda only: only
            return lambda *arguments: torch.zeros(5, 32)

    monkeypatch.setattr(torch.ops, "mkldnn", Operators(), raising=False)
    packs.cache_clear()
    try:
        assert not packs(torch.float32)
    finally:
        packs.cache_clear()
