import pytest
import torch
from torch.nn.functional import linear

from amma.train.model import linear as module
from amma.train.model.linear import Linear, mkl_is_slow, multiply, product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def inputs(rows: int, bias: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, 256), (300, 256), (300,)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes[: 2 + bias]]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_onednn_gives_the_product_and_its_gradients_up_to_rounding(
    rows: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PREFER_ONEDNN", True)
    if in_place and module.IN_PLACE is None:
        pytest.skip("this torch has the public way only")
    if not in_place:
        monkeypatch.setattr(module, "IN_PLACE", None)
    found, exact = inputs(rows), [tensor.detach().double().requires_grad_() for tensor in inputs(rows)]
    answer, expected = multiply(*found), linear(*exact)
    assert answer.grad_fn is not None
    assert "amma_product" in answer.grad_fn.name()
    torch.testing.assert_close(answer.double(), expected, rtol=0, atol=1e-4)
    weight = torch.arange(300.0)
    (answer @ weight).sum().backward()
    (expected @ weight.double()).sum().backward()
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=0.05)


def test_a_second_gradient_is_right_too() -> None:
    left, right = inputs(5, bias=False)
    (slope,) = torch.autograd.grad(product(left, right, None).square().sum(), left, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), left)
    square = (right.detach().double().T @ right.detach().double()) * 2
    expected = 2 * left.detach().double() @ square @ square
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_onednn_does_not_serve_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREFER_ONEDNN", True)
    x, weight, bias = (tensor.detach() for tensor in inputs(4))
    assert torch.equal(
        multiply(x.double(), weight.double(), bias.double()), linear(x.double(), weight.double(), bias.double())
    )
    assert torch.equal(multiply(x, weight[:200], bias[:200]), linear(x, weight[:200], bias[:200]))
    with torch.autocast("cpu", torch.bfloat16):
        assert multiply(x, weight, bias).dtype == torch.bfloat16
    monkeypatch.setattr(module, "PREFER_ONEDNN", False)
    assert torch.equal(multiply(x, weight, bias), linear(x, weight, bias))


def test_only_wide_vectors_of_other_makers_are_taken_from_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not mkl_is_slow()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for text, slow in (
        ("vendor_id : GenuineIntel", False),
        ("vendor_id : AuthenticAMD", torch.backends.mkl.is_available()),
    ):
        monkeypatch.setattr(module.Path, "read_text", lambda self, text=text: text)
        monkeypatch.setattr(module.Path, "exists", lambda self: True)
        assert mkl_is_slow() is slow


def test_the_layer_is_torchs_with_the_same_names() -> None:
    layer = Linear(8, 4)
    assert list(layer.state_dict()) == ["weight", "bias"]
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
