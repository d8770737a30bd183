"""What dropout gains over none, its share chosen without a look at the seed it is judged on."""

from collections.abc import Callable, Mapping
from operator import attrgetter

import numpy as np

from xhat.study.claims._equal_loss import Floats
from xhat.study.claims._regularises_figures import with_dropout
from xhat.study.claims._tuned import Tuned


def gain(
    arms: Mapping[str, Tuned],
    norm: str,
    shares: tuple[float, ...],
    accuracy: Callable[[Tuned], Floats] = attrgetter("accuracy"),
) -> Floats:
    """Return, a seed each, what the best of the shares gains over no dropout, in points.

    The share of a seed is the one that is best for the other seeds, so that no luck is picked.
    """
    found = np.stack([accuracy(arms[with_dropout(norm, share)]) for share in shares])
    others = found.sum(axis=1, keepdims=True) - found
    best = others.argmax(axis=0)
    return np.asarray(np.take_along_axis(found, best[None], axis=0)[0] - accuracy(arms[norm]))
