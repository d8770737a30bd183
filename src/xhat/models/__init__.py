"""Networks of the study, each with ``norm`` as its switch, and ensembles of small ones."""

from xhat.models.ensemble import Ensemble
from xhat.models.ghost import GhostBatchNorm
from xhat.models.initialise import INITIALISATIONS, initialise_
from xhat.models.lp_norm import LpNorm
from xhat.models.mlp import MLP, DeepLinear
from xhat.models.noise import DistributionNoise
from xhat.models.resnet import ResNet
from xhat.models.vgg import VGG

__all__ = [
    "INITIALISATIONS",
    "MLP",
    "VGG",
    "DeepLinear",
    "DistributionNoise",
    "Ensemble",
    "GhostBatchNorm",
    "LpNorm",
    "ResNet",
    "initialise_",
]
