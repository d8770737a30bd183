"""Fully connected networks: the multi-layer perceptron, and the deep linear network of [S]."""

from itertools import pairwise

from torch import Tensor, nn

from xhat.errors import UsageError, unknown
from xhat.models._activations import make_activation
from xhat.models._bias import keep_bias
from xhat.models._norms import make_norm

PLACES = ("pre", "post")


class MLP(nn.Module):
    """``depth`` hidden layers of linear → normalisation → activation, and a linear output layer.

    Normalisation stands before the activation, as in [IS] sec. 3.2, unless ``place`` is "post". Biases stay
    in every arm, so that the arms share all initial weights; before BN they are without effect.

    Shapes: input (N, ``*``), flattened to (N, inputs); output (N, classes).

    Args:
        inputs: Features of one flattened input.
        classes: Units of the output.
        depth: Hidden layers.
        width: Units of a hidden layer.
        activation: "relu", "sigmoid", "tanh" or "identity".
        norm: As ``make_norm`` takes it.
        bias: Whether hidden layers have a bias; the output layer does. The weights drawn are the same
            with and without.
        affine: Whether normalisation has γ and β.
        place: "pre": normalisation before the activation; "post": behind it.
        only: The one hidden layer that is normalised, counted from 0; None: all of them.
        dropout: Share of units that are dropped in training at the end of every hidden layer; 0: the
            network has no dropout.

    Raises:
        UsageError: there is no such norm, activation or place, or no hidden layer ``only``.
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
        bias: bool = True,
        affine: bool = True,
        place: str = "pre",
        only: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if place not in PLACES:
            raise unknown("place", place, PLACES)
        if only is not None and not 0 <= only < depth:
            raise UsageError(
                f"only={only} names none of the {depth} hidden layers, so no layer would be normalised: give "
                f"0 to {depth - 1}, or norm='none'"
            )
        sizes = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList()
        for index, (before, after) in enumerate(pairwise(sizes)):
            here = norm if only is None or only == index else "none"
            linear = keep_bias(nn.Linear(before, after), bias)
            behind = [make_norm(here, after, images=False, affine=affine), make_activation(activation)]
            block = nn.Sequential(linear, *(behind if place == "pre" else reversed(behind)))
            if dropout:
                block.append(nn.Dropout(dropout))
            self.hidden.append(block)
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
