"""What a training run can measure on its way, one measure a file: a frozen dataclass with ``at`` and ``take``.

A claim puts measures into ``TrainSpec.measures``; ``Outcome.measured`` gives back what they found.
"""

from xhat.study.measures.control import Control
from xhat.study.measures.evaluate import Evaluate
from xhat.study.measures.layer_step import LayerStep
from xhat.study.measures.linear_part import LinearPart
from xhat.study.measures.perturb import Perturb
from xhat.study.measures.recalibrated import Recalibrated
from xhat.study.measures.rescale import Rescale
from xhat.study.measures.weight_norms import WeightNorms

__all__ = [
    "Control",
    "Evaluate",
    "LayerStep",
    "LinearPart",
    "Perturb",
    "Recalibrated",
    "Rescale",
    "WeightNorms",
]
