"""Fully connected networks: the multi-layer perceptron, and the deep linear network of [S]."""

from itertools import pairwise

from torch import Tensor, nn

from xhat.models._activations import make_activation
from xhat.models._norms import make_norm


class MLP(nn.Module):
    """``depth`` hidden layers of linear → normalisation → activation, and a linear output layer.

    Normalisation stands before the activation, as in [IS] sec. 3.2. Biases stay in every arm, so that the
    arms share all initial weights; before BN they are without effect.

    Shapes: input (N, ``*``), flattened to (N, inputs); output (N, classes).

    Args:
        inputs: Features of one flattened input.
        classes: Units of the output.
        depth: Hidden layers.
        width: Units of a hidden layer.
        activation: "relu", "sigmoid", "tanh" or "identity".
        norm: "batch", "none", "layer", "group", and "+noise" behind any of "batch" and "none".
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        depth: int = 8,
        width: int = 50,
        activation: str = "relu",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList(
            nn.Sequential(
                nn.Linear(before, after), make_norm(norm, after, images=False), make_activation(activation)
            )
            for before, after in pairwise(sizes)
        )
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        out: Tensor = self.output(x)
        return out


class DeepLinear(nn.Module):
    """The deep linear network of [S], sec. 3.2: ``depth`` square layers without bias or activation.

    With ``norm="batch"`` every layer but the last has BN behind it.

    Shapes: input and output (N, width).
    """

    def __init__(self, *, depth: int = 25, width: int = 10, norm: str = "batch") -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width, bias=False), make_norm(norm, width, images=False))
            for _ in range(depth - 1)
        )
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        out: Tensor = self.output(x)
        return out
