"""How fast gradients grow from layer to layer at initialisation, read off the layers' gradient norms."""

import math

import numpy as np
import numpy.typing as npt

from xhat.study.outcome import Outcome

Floats = npt.NDArray[np.float64]
RELU = math.sqrt(math.pi / (math.pi - 1))  # with BN and ReLU, for infinite width and batch


def hidden_gradients(outcome: Outcome) -> Floats:
    """Return the norms of the hidden layers' weight gradients at the start, input side first."""
    return outcome.layer_gradient[:-1]


def middle(layers: int) -> slice:
    """Return the middle half of the hidden layers: both ends are not yet like the rest."""
    return slice(layers // 4, layers - layers // 4)


def growth(norms: Floats) -> float:
    """Return the factor by which gradient norms grow from a layer to the one before it.

    By least squares on the logarithms over the middle half of the layers; NaN if one is not positive and
    finite.
    """
    read = norms[middle(len(norms))]
    if len(read) < 2 or not (np.isfinite(read) & (read > 0)).all():
        return math.nan
    slope = np.polynomial.polynomial.polyfit(np.arange(len(read)), np.log(read), 1)[1]
    return float(np.exp(-slope))
