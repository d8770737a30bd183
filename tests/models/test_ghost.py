"""Ghost batch norm is torch's batch norm, chunk by chunk."""

import pytest
import torch
from torch import Tensor, nn

from xhat.errors import UsageError
from xhat.models import GhostBatchNorm

# Batch, samples a chunk, and the chunks that come of it.
CHUNKS = [
    (12, 4, [4, 4, 4]),
    (4, 4, [4]),
    (3, 4, [3]),
    (11, 4, [4, 4, 3]),
    (10, 4, [4, 4, 2]),
    (9, 4, [4, 5]),
    (5, 4, [5]),
    (7, 2, [2, 2, 3]),
    (3, 2, [3]),
]
TAILS = pytest.mark.parametrize("tail", [(), (5,), (3, 2)], ids=["1d", "sequence", "image"])


def draw(batch: int, tail: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *tail, dtype=torch.float64, generator=generator) * 2 + 1


def layer(samples: int) -> GhostBatchNorm:
    ghost = GhostBatchNorm(3, samples).double()
    nn.init.normal_(ghost.weight)
    nn.init.normal_(ghost.bias)
    return ghost


@TAILS
@pytest.mark.parametrize(("batch", "samples", "chunks"), CHUNKS)
def test_each_chunk_is_normalised_by_torchs_own_layer(
    batch: int, samples: int, chunks: list[int], tail: tuple[int, ...]
) -> None:
    ghost, x = layer(samples), draw(batch, tail).requires_grad_()
    own = [nn.BatchNorm1d(3, momentum=1.0).double() for _ in chunks]
    parts = []
    for norm, part in zip(own, x.split(chunks), strict=True):
        norm.weight, norm.bias = ghost.weight, ghost.bias
        parts.append(norm(part.reshape(len(part), 3, -1)).view(part.shape))
    got, expected = ghost(x), torch.cat(parts)
    torch.testing.assert_close(got, expected)
    wrt = (x, ghost.weight, ghost.bias)
    seed = draw(batch, tail).cos()
    for one, other in zip(
        torch.autograd.grad(got, wrt, seed), torch.autograd.grad(expected, wrt, seed), strict=True
    ):
        torch.testing.assert_close(one, other)
    # One update by the mean over the chunks; they start at 0 and 1.
    mean = torch.stack([norm.running_mean for norm in own]).mean(0)
    var = torch.stack([norm.running_var for norm in own]).mean(0)
    torch.testing.assert_close(ghost.running_mean, 0.1 * mean)
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * var)
    assert ghost.num_batches_tracked == 1


@TAILS
def test_evaluation_is_that_of_batch_norm(tail: tuple[int, ...]) -> None:
    ghost = layer(4)
    ghost(draw(12, tail))
    ghost.eval()
    plain = nn.modules.batchnorm._BatchNorm(3).double()
    plain._check_input_dim = lambda input: None  # type: ignore[method-assign]
    plain.load_state_dict(ghost.state_dict())
    torch.testing.assert_close(ghost(draw(9, tail)), plain.eval()(draw(9, tail)), rtol=0, atol=0)
    torch.testing.assert_close(ghost.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_without_affine() -> None:
    ghost = GhostBatchNorm(3, 4, affine=False).double()
    out = ghost(draw(8, ())).view(2, 4, 3)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3).double())
    assert not list(ghost.parameters())


@pytest.mark.parametrize("samples", [0, 1])
def test_a_chunk_needs_two_samples(samples: int) -> None:
    with pytest.raises(UsageError, match=f"chunks of {samples} samples"):
        GhostBatchNorm(3, samples)


def test_a_batch_of_one_sample() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GhostBatchNorm(3, 4)(torch.ones(1, 3))
