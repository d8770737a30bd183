"""Accuracy and loss in evaluation mode, at steps of the training."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from xhat.study.scene import Scene, floats
from xhat.study.store import Arrays


@dataclass(frozen=True)
class Evaluate:
    """Test accuracy and test loss, and the loss on the first ``train`` training samples, in evaluation mode.

    Arrays for M members: accuracy, test_loss, and with ``train`` train_loss and train_accuracy, each (M,);
    accuracies are shares.
    """

    at: tuple[int, ...]
    train: int = 0
    kind: str = field(default="evaluate", init=False)
    anywhere: ClassVar[bool] = True

    @torch.no_grad()
    def take(self, scene: Scene) -> Arrays:
        """Evaluate the network as it stands."""
        scene.model.eval()
        accuracy, loss = scene.task.assess(scene.model, train=None)
        found = {"accuracy": floats(accuracy), "test_loss": floats(loss)}
        if self.train:
            accuracy, loss = scene.task.assess(scene.model, train=self.train)
            found |= {"train_accuracy": floats(accuracy), "train_loss": floats(loss)}
        return found
