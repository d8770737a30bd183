"""A convolution or linear layer with a batch norm behind it, in the place of the layer alone."""

from typing import Any

from torch import Tensor, nn


class WithBatchNorm(nn.Module):
    """norm(layer(x)), over the layer's output channels.

    A linear layer may have inputs of any number of axes: all but the last are samples to its batch norm.
    Attributes that are not the module's own are the layer's, as ``out_channels``.

    Args:
        layer: A convolution or linear layer.
        norm: A batch norm of as many features as the layer has output channels.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.layer(*args, **kwargs)
        if isinstance(self.layer, nn.Linear) and y.dim() > 2:
            normalised: Tensor = self.norm(y.flatten(0, -2))
            return normalised.view(y.shape)
        out: Tensor = self.norm(y)
        return out

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer where the module has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None:
                raise
            return getattr(layer, name)
