"""A small residual network for small images."""

import torch.nn.functional as F
from torch import Tensor, nn

from xhat.models._bias import keep_bias
from xhat.models._norms import make_norm


class BasicBlock(nn.Module):
    """relu(F(x) + x) with F two 3×3 convolutions, each with normalisation, and a ReLU between them.

    Where ``stride`` or the channels change the shape, x passes a 1×1 convolution with normalisation.

    Shapes: input (N, before, H, W); output (N, after, ⌈H/stride⌉, ⌈W/stride⌉).

    Source: He et al. 2016, arXiv 1512.03385, figure 2 and sec. 3.3, option B.
    """

    def __init__(self, before: int, after: int, *, stride: int, norm: str, bias: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            keep_bias(nn.Conv2d(before, after, 3, stride, padding=1), bias),
            make_norm(norm, after, images=True),
            nn.ReLU(),
            keep_bias(nn.Conv2d(after, after, 3, padding=1), bias),
            make_norm(norm, after, images=True),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.append(keep_bias(nn.Conv2d(before, after, 1, stride), bias))
            self.shortcut.append(make_norm(norm, after, images=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 convolution, three stages of ``blocks`` basic blocks, global average pooling, a linear layer.

    Channels ``width``, 2·width, 4·width by stage, stride 2 between the stages; 6·blocks + 2 layers with
    weights, the shortcuts' not counted.

    Shapes: input (N, channels, H, W); output (N, classes).

    Args:
        channels: Of the input.
        classes: Units of the output.
        width: Channels of the first stage.
        blocks: Basic blocks a stage.
        norm: As ``make_norm`` takes it.
        bias: Whether convolutions have a bias; before BN it is without effect. The weights drawn are the
            same with and without.

    Source: He et al. 2016, arXiv 1512.03385, sec. 4.2, with projections on the shortcuts (option B).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 16,
        blocks: int = 1,
        norm: str = "batch",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            keep_bias(nn.Conv2d(channels, width, 3, padding=1), bias),
            make_norm(norm, width, images=True),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList()
        before = width
        for stage in range(3):
            for block in range(blocks):
                after, stride = width * 2**stage, 2 if stage and block == 0 else 1
                self.blocks.append(BasicBlock(before, after, stride=stride, norm=norm, bias=bias))
                before = after
        self.output = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.output(x.mean(dim=(2, 3)))
        return out
