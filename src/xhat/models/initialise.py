"""Initial weights: He, Xavier (Glorot), and the small Gaussian of old."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from xhat.errors import UsageError, unknown

INITIALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "small": partial(nn.init.normal_, std=0.01),
}


@torch.no_grad()
def initialise_(
    model: nn.Module, init: str, *, scale: float = 1.0, output_scale: float | None = None
) -> None:
    """Draw the weights of linear layers and convolutions anew, in place; their biases become 0.

    Args:
        model: Any network; parameters of other layers, BN's among them, stay as they are.
        init: "he" (std √(2/fan_in), He et al. 2015), "xavier" (std √(2/(fan_in+fan_out)), Glorot and
            Bengio 2010), "small" (std 0.01), or "own": keep the model's own draw.
        scale: Multiplies the drawn weights.
        output_scale: Multiplies those of the output layer instead, the last linear layer in the order of
            modules; None: ``scale`` does.

    Raises:
        UsageError: there is no such initialisation, or no linear layer for ``output_scale``.
    """
    if init != "own" and init not in INITIALISATIONS:
        raise unknown("initialisation", init, [*INITIALISATIONS, "own"])
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if output_scale is not None and not linear:
        raise UsageError(
            f"output_scale={output_scale:g} is for the last linear layer, and {type(model).__name__} has "
            "none: leave it out"
        )
    scaled: set[int] = set()
    for layer in model.modules():
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if init != "own":
            INITIALISATIONS[init](layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()
        own = scale if output_scale is None or layer is not linear[-1] else output_scale
        if own != 1.0 and (init != "own" or id(layer.weight) not in scaled):  # two layers may share it
            scaled.add(id(layer.weight))
            layer.weight.mul_(own)
