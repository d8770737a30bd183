"""Ghost batch normalization: statistics over small chunks of a large batch."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.errors import UsageError


def ghost_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    samples: int,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return ``x`` normalised by the statistics of chunks of ``samples`` samples, as in training.

    The running statistics move towards the means, over the chunks, of the chunks' means and unbiased
    variances.

    Shapes: ``x`` (C, N, P), P positions a sample; output the same; all others (C,).
    """
    whole, rest = divmod(x.shape[1], samples)
    if rest == 1:
        whole = max(whole - 1, 0)  # its last chunk takes the single sample in
    # Chunks are channels of their own to torch's kernel, so all of one size cost one call.
    cut = whole * samples
    outs, means, variances = [], [], []
    for part, chunks in ((x[:, :cut], whole), (x[:, cut:], 1)):
        if part.shape[1] == 0:
            continue
        rows = part.reshape(1, part.shape[0] * chunks, -1)
        gamma, beta = (w if w is None else w.repeat_interleave(chunks) for w in (weight, bias))
        # With momentum 1 the kernel leaves each chunk's own statistics in these.
        mean, var = x.new_zeros(2, rows.shape[1]).unbind()
        out = F.batch_norm(rows, mean, var, gamma, beta, training=True, momentum=1.0, eps=eps)
        outs.append(out.view(part.shape))
        means.append(mean.view(-1, chunks))
        variances.append(var.view(-1, chunks))
    running_mean.lerp_(torch.cat(means, 1).mean(1), momentum)
    running_var.lerp_(torch.cat(variances, 1).mean(1), momentum)
    return torch.cat(outs, 1)


class GhostBatchNorm(_BatchNorm):
    """Batch normalization whose training statistics are those of chunks of ``samples`` samples.

    x̂ = (x − μ)/√(σ² + ε) with μ and biased σ² of the sample's own chunk, per channel over the chunk's
    samples and positions. The last chunk may be smaller; if it were one sample, that joins the chunk
    before. Evaluation takes the running statistics. A batch updates them once, with the mean over its
    chunks; Hoffer et al. update them once a chunk, which weights the last chunks more.

    Shapes: (N, C) or (N, C, ``*``) both ways.

    Args:
        channels: C.
        samples: Samples a chunk, 2 or more.
        eps: ε, added to the variance.
        momentum: Weight of the new batch in the running statistics.
        affine: Whether there are γ and β.

    Raises:
        UsageError: chunks of fewer than 2 samples.

    Source: Hoffer, Hubara and Soudry 2017, arXiv 1705.08741, Alg. 1.
    """

    def __init__(
        self, channels: int, samples: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__(channels, eps, momentum, affine)
        if samples < 2:
            raise UsageError(
                f"ghost batch norm got chunks of {samples} samples: a single sample is its own mean, so the "
                "output would not depend on the input. Take 2 or more"
            )
        self.samples = samples

    def extra_repr(self) -> str:
        """Return what tells two such layers apart."""
        own = f"samples={self.samples}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        return f"{self.num_features}, {own}"

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        if not self.training:
            return F.batch_norm(x, *statistics, *affine, eps=self.eps)
        self.num_batches_tracked.add_(1)
        turned = x.transpose(0, 1)
        out = ghost_batch_norm(
            turned.reshape(*turned.shape[:2], -1),
            *statistics,
            *affine,
            samples=self.samples,
            momentum=self.momentum,
            eps=self.eps,
        )
        return out.view(turned.shape).transpose(0, 1)
