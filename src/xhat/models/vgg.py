"""A VGG-like network: eight 3×3 convolutions in four stages."""

from torch import Tensor, nn

from xhat.models._bias import keep_bias
from xhat.models._norms import make_norm


class VGG(nn.Module):
    """Eight convolutions, two a stage, each followed by normalisation and ReLU, then one linear layer.

    After Simonyan and Zisserman 2014 (arXiv 1409.1556) with BN as in [S]; channels ``width``, 2·width,
    4·width, 4·width by stage, 2×2 max pooling between the stages, global average pooling at the end.

    Shapes: input (N, channels, H, W) with H, W ≥ 8; output (N, classes).

    Args:
        channels: Of the input.
        classes: Units of the output.
        width: Channels of the first stage.
        norm: As ``make_norm`` takes it.
        bias: Whether convolutions have a bias. The weights drawn are the same with and without.
        affine: Whether normalisation has γ and β.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 16,
        norm: str = "batch",
        bias: bool = True,
        affine: bool = True,
    ) -> None:
        super().__init__()
        stages = (width, 2 * width, 4 * width, 4 * width)
        blocks: list[nn.Module] = []
        before = channels
        for stage, after in enumerate(stages):
            for part in range(2):
                block: list[nn.Module] = [nn.MaxPool2d(2)] if stage and part == 0 else []
                block += [
                    keep_bias(nn.Conv2d(before, after, 3, padding=1), bias),
                    make_norm(norm, after, images=True, affine=affine),
                    nn.ReLU(),
                ]
                blocks.append(nn.Sequential(*block))
                before = after
        self.features = nn.ModuleList(blocks)
        self.output = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.features:
            x = block(x)
        out: Tensor = self.output(x.mean(dim=(2, 3)))
        return out
