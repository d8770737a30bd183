"""Small networks on small data, as a measure finds them."""

import math

import torch
from torch import nn

from xhat.data import TensorData
from xhat.models import MLP, Ensemble
from xhat.study.scene import Scene
from xhat.study.tasks import Classification, EnsembleClassification

FEATURES, CLASSES, SAMPLES = 6, 3, 40


def data() -> TensorData:
    """Return Gaussian inputs with targets that hang on them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, FEATURES, generator=generator)
    y = x[:, :CLASSES].argmax(1)
    return TensorData("made", x, y, x, y, CLASSES)


def member(seed: int, norm: str = "batch", **options: object) -> MLP:
    """Return a small network whose γ, β and statistics are not those of the start."""
    torch.manual_seed(seed)
    made = MLP(FEATURES, CLASSES, norm=norm, **{"depth": 2, "width": 5, "activation": "relu", **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm) and layer.weight is not None:
                layer.weight.normal_(1.0, 0.3)
                layer.bias.normal_(0.0, 0.3)
    for _ in range(20):
        made(data().train_x)
    return made


def alone(model: nn.Module, lr: float = 0.1) -> Scene:
    """Return the scene of one network."""
    task = Classification(data(), 0, SAMPLES)
    return Scene(model.train(), task, 0, task.batch(0), torch.tensor([lr]))


def together(*members: MLP, lr: float = 0.1) -> Scene:
    """Return the scene of members of one seed as an ensemble."""
    task = EnsembleClassification(data(), (0,) * len(members), SAMPLES)
    model = Ensemble(list(members)).train()
    return Scene(model, task, 0, task.batch(0), torch.full((len(members),), lr))


def broken(model: MLP) -> MLP:
    """Return the network with a weight that is not a number."""
    with torch.no_grad():
        model.hidden[0][0].weight[0, 0] = math.nan  # type: ignore[index]
    return model
