"""Accuracy and loss in evaluation mode once the running statistics have been estimated anew."""

from dataclasses import dataclass, field

import torch

from xhat.study.scene import Scene, floats
from xhat.study.store import Arrays


@dataclass(frozen=True)
class Recalibrated:
    """Test accuracy and test loss with running statistics of the first ``samples`` training samples alone.

    One pass over them as a single batch; noise and dropout are off in it, as they are in evaluation. A
    network that trains under noise has gathered its running statistics under noise: with those its layers
    are shifted and scaled wrongly once the noise is gone.

    Arrays for M members: accuracy, a share, and test_loss, each (M,).
    """

    at: tuple[int, ...]
    samples: int = 512
    kind: str = field(default="recalibrated", init=False)

    @torch.no_grad()
    def take(self, scene: Scene) -> Arrays:
        """Estimate the statistics and evaluate."""
        scene.model.eval()
        layers = [m for m in scene.model.modules() if getattr(m, "running_mean", None) is not None]
        for layer in layers:
            layer.train()
            layer.momentum = 1.0  # type: ignore[assignment]
        scene.model(scene.task.fixed(self.samples))
        scene.model.eval()
        accuracy, loss = scene.task.assess(scene.model, train=None)
        return {"accuracy": floats(accuracy), "test_loss": floats(loss)}
