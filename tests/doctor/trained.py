"""Small networks of the study, trained for a few seconds on Fashion-MNIST: what a healthy model looks like."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xhat.data import TensorData, fashion_mnist
from xhat.models import MLP, VGG, ResNet

Batch = tuple[Tensor, Tensor]

STEPS = 200
# In the networks' usual sizes of a quick study; images are 14×14.
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "vgg": lambda: VGG(1, 10, width=8),
    "resnet": lambda: ResNet(1, 10, width=8, blocks=1),
    "mlp": lambda: MLP(196, 10, depth=4, width=32),
}
NAMES = tuple(MAKERS)


@cache
def data() -> TensorData:
    """Fashion-MNIST, pooled to 14×14, in a random order."""
    return fashion_mnist().subset(train=5000, test=1000).pooled(2)


def batches(
    *, size: int = 64, count: int = 8, part: str = "train", seed: int = 0, classes: int | None = None
) -> list[Batch]:
    """Return batches drawn at random without replacement.

    Args:
        size: Samples a batch.
        count: Batches.
        part: "train" or "test".
        seed: Of the order.
        classes: Keep only this many classes, one a batch in turn: what a sorted data set looks like.
    """
    x, y = (data().train_x, data().train_y) if part == "train" else (data().test_x, data().test_y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    if classes is not None:
        kinds = [order[y[order] == label] for label in range(classes)]
        order = torch.cat(
            [kinds[place % classes][place // classes * size :][:size] for place in range(count)]
        )
    picked = order[: size * count].split(size)
    return [(x[index], y[index]) for index in picked]


@cache
def _trained(name: str, seed: int, steps: int, lr: float) -> nn.Module:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MAKERS[name]().train()
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            x, y = data().train_x, data().train_y
            for _ in range(steps):
                index = torch.randint(len(y), (64,))
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def trained(name: str, seed: int = 0, *, steps: int = STEPS, lr: float = 0.05) -> nn.Module:
    """Return a network of its own, in evaluation mode, trained once a session."""
    return copy.deepcopy(_trained(name, seed, steps, lr))


def healthy(name: str, seed: int = 0) -> tuple[nn.Module, list[Batch]]:
    """Return a trained network and eight batches of its training data."""
    return trained(name, seed), batches(seed=1000 + seed)


def accuracy(model: nn.Module, part: str = "test") -> float:
    """Return the share of samples that the model, in the mode it has, gets right."""
    x, y = (data().train_x, data().train_y) if part == "train" else (data().test_x, data().test_y)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())
