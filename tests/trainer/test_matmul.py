"""Products of both classes: the values and derivatives of torch's, on every layout that the model hands in."""

from collections.abc import Iterator

import pytest
import torch

from trainer.matmul import LARGE, accumulate, linear, matmul, product, use_portable


@pytest.fixture
def portable() -> Iterator[None]:
    use_portable(True)
    yield
    use_portable(False)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.usefixtures("portable")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (random(6, 5), random(5, 4)),
        (random(6, 5), random(4, 5).t()),
        (random(5, 6).t(), random(5, 4)),
        (random(2, 3, 6, 5), random(2, 3, 7, 5).transpose(-1, -2)),
        (random(2, 6, 3, 5).transpose(1, 2), random(2, 3, 5, 4)[:, :, :, 1:]),
        (random(1, 5), random(5, 1)),
    ],
)
def test_values_and_gradients_are_those_of_torch(a: torch.Tensor, b: torch.Tensor) -> None:
    ours = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    theirs = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    product, expected = matmul(*ours), theirs[0] @ theirs[1]
    weight = random(*product.shape)
    (product * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(product, expected)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("is_portable", [False, True], ids=["native", "portable"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (random(6, 5), random(5, 4)),
        (random(6, 5), random(4, 5).t()),
        (random(5, 6).t(), random(5, 4)),
        (random(5, 6).t(), random(4, 5).t()),
        (random(8, 5)[2:], random(5, 4)),
        (random(1, 5), random(5, 1)),
    ],
)
def test_products_without_a_derivative_are_those_of_torch(
    request: pytest.FixtureRequest, is_portable: bool, a: torch.Tensor, b: torch.Tensor
) -> None:
    if is_portable:
        request.getfixturevalue("portable")
    torch.testing.assert_close(product(a, b), a @ b)
    total = torch.ones(len(a), b.shape[1])
    accumulate(total, a, b)
    torch.testing.assert_close(total, 1 + a @ b)


@pytest.mark.parametrize("rows", [2, 128], ids=["small", "large"])
@pytest.mark.parametrize("is_portable", [False, True], ids=["native", "portable"])
def test_linear_maps_and_their_gradients_are_those_of_double_precision(
    request: pytest.FixtureRequest, is_portable: bool, rows: int
) -> None:
    """Large ones are oneDNN's in `native`."""
    if is_portable:
        request.getfixturevalue("portable")
    ours = [tensor.requires_grad_() for tensor in (random(4, rows, 256), random(520, 256), random(520))]
    assert (4 * rows * 256 * 520 >= LARGE) == (rows == 128)
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    y, expected = linear(*ours), torch.nn.functional.linear(*exact)
    weight = random(*y.shape)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in [(y, expected), *((mine.grad, other.grad) for mine, other in zip(ours, exact, strict=True))]:
        assert mine is not None and other is not None
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=1e-6 * float(other.detach().abs().max()))


def test_in_mixed_precision_a_native_linear_map_is_bfloat16_as_torchs() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(random(512, 512), random(512, 512)).dtype == torch.bfloat16
        assert product(random(512, 512), random(512, 512)).dtype == torch.bfloat16


@pytest.mark.usefixtures("portable")
def test_gradient_is_not_computed_for_what_needs_none() -> None:
    a, b = random(3, 4), random(4, 2).requires_grad_()
    matmul(a, b).sum().backward()
    assert a.grad is None and b.grad is not None
