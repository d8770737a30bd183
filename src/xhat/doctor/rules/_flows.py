"""What rules on structure ask a recording."""

from typing import Any

from torch import Tensor, nn

from xhat.dataflow import Access, Call, Flow, Mode, Source, Use
from xhat.doctor.case import Case
from xhat.lang import say


def training_flow(case: Case) -> Flow | None:
    """Return the run in training mode; the one in evaluation mode where the model raised in training."""
    return flow_of(case, "train") or flow_of(case, "eval")


def flow_of(case: Case, mode: Mode) -> Flow | None:
    """Return the run in one mode; None where the model raised in it."""
    return case.recording.flow(mode) if case.recording is not None else None


def axis_of(module: nn.Module, made: Access) -> int | None:
    """Return the axis of the channels in what a convolution or linear layer made; None for other modules."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return len(made.size) - 1 - len(module.kernel_size)
    if isinstance(module, nn.Linear):
        return len(made.size) - 1
    return None


def keeps_channels(flow: Flow, made: Access, axis: int, use: Use) -> bool:
    """Whether each channel that a use reads, on axis 1, holds values of one channel of what was made."""
    if (
        use.access is not None
        and (use.access.size, use.access.stride) == (made.size, made.stride)
        and not use.path
    ):
        return axis == 1  # read as it was made
    labels: Tensor = flow.labels(made, axis, use)
    if labels.dim() < 2:
        return False
    rows = labels.movedim(1, 0).flatten(1)
    return bool((rows == rows[:, :1]).all() and (rows >= 0).all())


def words_of(source: Source) -> str:
    """Return the name of what made a tensor."""
    if source.kind == "input":
        return say("the model's input")
    if source.kind == "function":
        module = source.call.module if source.call else ""
        return say("{name} in {module}", name=source.name, module=module or say("the model"))
    return source.name


def class_ids(target: Any, scores: tuple[int, ...]) -> int | None:
    """Return the largest class in a target that names one class for each place of the scores, (N, K, …)."""
    if (
        not isinstance(target, Tensor)
        or target.is_floating_point()
        or target.is_complex()
        or not target.numel()
    ):
        return None
    if len(scores) < 2 or tuple(target.shape) != (scores[0], *scores[2:]):
        return None
    lowest, largest = int(target.min()), int(target.max())
    return largest if lowest >= 0 and largest < scores[1] else None


def calls_of(flow: Flow, name: str) -> tuple[Call, ...]:
    """Return the calls of a module; none for one that did not run."""
    return flow.calls.get(name, ())
