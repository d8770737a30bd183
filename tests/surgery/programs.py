"""Networks with a random program, which know themselves which batch norm directly follows its only layer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Draw = tuple[
    str, int, int, int
]  # kind of step, two earlier results, and an option; all taken modulo what there is

KINDS = (
    *("layer", "norm", "norm", "activation", "activation", "activation", "sum", "sum", "cat"),
    *("dropout", "move", "pool", "add-in-place", "keep", "read-weight"),
)
KEEPS_SHAPE = ("norm", "activation", "dropout", "move", "add-in-place")  # may be done in one mode alone
OVERWRITES = ("relu_", "ReLU(inplace)", "mul_", "view_")
ACTIVATIONS = ("relu", "ReLU", "tanh", "gelu", *OVERWRITES)


def draws() -> st.SearchStrategy[tuple[int, list[Draw], list[int]]]:
    """Dimensions, steps, and which results are returned beside the last one."""
    number = st.integers(0, 23)
    # The last result is the likeliest to be used: that makes networks deep.
    earlier = st.one_of(st.just(0), st.just(0), st.just(1), st.integers(0, 9))
    step = st.tuples(st.sampled_from(KINDS), earlier, earlier, number).map(lambda drawn: [drawn])
    block = st.tuples(earlier, number, st.sampled_from(["norm", "norm", "activation"]), number).map(
        lambda drawn: [("layer", drawn[0], 0, drawn[1]), (drawn[2], 0, 0, drawn[3])]
    )
    steps = st.lists(st.one_of(step, block), min_size=1, max_size=8).map(
        lambda parts: [one for part in parts for one in part]
    )
    return st.tuples(st.sampled_from([1, 2]), steps, st.lists(earlier, max_size=2))


@dataclass(frozen=True)
class Step:
    kind: str
    a: int  # results, counted from the input
    b: int
    option: int
    module: str = ""
    mode: str = "both"  # in which it is done; in the other one the result is a's


class Random(nn.Module):
    """The network of a draw, on inputs (N, 4, 4) or (N, 4, 4, 4)."""

    def __init__(self, dims: int, drawn: Sequence[Draw], returned: Sequence[int]) -> None:
        super().__init__()
        self.dims = dims
        self.steps: list[Step] = []
        shapes = [(4, True)]  # channels of each result, and whether it has spatial axes
        for kind, back, other, option in drawn:
            a, b = (len(shapes) - 1 - n % len(shapes) for n in (back, other))
            if kind in ("sum", "add-in-place", "cat"):
                # of equal shape, a alone if need be
                b = b if shapes[a] == shapes[b] and (kind != "add-in-place" or a != b) else a
                kind = "sum" if kind == "add-in-place" and a == b else kind
                kind = "sum" if kind == "cat" and shapes[a][0] > 8 else kind
            mode = {0: "train", 7: "eval"}.get(option % 12, "both") if kind in KEEPS_SHAPE else "both"
            step = Step(kind, a, b, option, mode=mode)
            shapes.append(self._add(step, *shapes[a]))
        last = len(shapes) - 1
        self.returned = sorted({last, *(last - n % len(shapes) for n in returned)})

    def _add(self, step: Step, channels: int, spatial: bool) -> tuple[int, bool]:
        option, module, out = step.option, "", (channels, spatial)
        if step.kind == "layer":
            module = self._shared(f"layer_{channels}_{spatial}", option) or self._new(
                f"layer_{channels}_{spatial}", self._layer(channels, spatial, option)
            )
            layer = self.get_submodule(module)
            out = (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels, spatial)
        elif step.kind == "norm":
            kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[self.dims if spatial else 0]
            options = ({}, {}, {"affine": False}, {"bias": False})[option % 4]
            name = f"norm_{channels}_{spatial}"
            module = self._shared(name, option) or self._new(name, kind(channels, **options))
        elif step.kind == "activation" and ACTIVATIONS[option % len(ACTIVATIONS)].startswith("ReLU"):
            module = self._new("relu", nn.ReLU(inplace=ACTIVATIONS[option % len(ACTIVATIONS)] != "ReLU"))
        elif step.kind == "dropout":
            module = self._new("dropout", nn.Dropout(0.3))
        elif step.kind == "read-weight":
            layers = [name for name, _ in self.named_children() if name.startswith("layer")]
            module = layers[option % len(layers)] if layers else ""
        elif step.kind == "cat":
            out = (2 * channels, spatial)
        elif step.kind == "pool":
            out = (channels, False)
        self.steps.append(Step(step.kind, step.a, step.b, option, module, step.mode))
        return out

    def _layer(self, channels: int, spatial: bool, option: int) -> nn.Module:
        features, bias, groups = (2, 4)[option % 2], option % 3 > 0, (1, 2)[option // 2 % 2]
        if not spatial or option % 8 == 7:
            return nn.Linear(channels, features, bias=bias)
        kind = (nn.Conv1d, nn.Conv2d)[self.dims - 1]
        if option % 8 == 6:
            kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[self.dims - 1]
            return kind(channels, features, 3, padding=1, groups=groups, bias=bias)
        kernel = (1, 3)[option // 4 % 2]
        padding = ("zeros", "zeros", "reflect", "circular")[option // 6 % 4]
        return kind(
            channels, features, kernel, padding=kernel // 2, groups=groups, bias=bias, padding_mode=padding
        )

    def _shared(self, name: str, option: int) -> str:
        """A module of that kind that there is already, at times."""
        known = [child for child, _ in self.named_children() if child.startswith(f"{name}_n")]
        return known[option % len(known)] if known and option % 6 == 5 else ""

    def _new(self, name: str, module: nn.Module) -> str:
        name = f"{name}_n{len(self._modules)}"
        self.add_module(name, module)
        return name

    def is_done(self, step: Step, training: bool) -> bool:
        return step.mode in ("both", "train" if training else "eval")

    def forward(self, x: Tensor) -> list[Tensor]:
        results = [x]
        for step in self.steps:
            a, b = results[step.a], results[step.b]
            results.append(self._do(step, a, b) if self.is_done(step, self.training) else a)
        return [results[index] for index in self.returned]

    def _do(self, step: Step, a: Tensor, b: Tensor) -> Tensor:
        module = self.get_submodule(step.module) if step.module else None
        match step.kind:
            case "layer" if isinstance(module, nn.Linear) and a.dim() > 2:
                return module(a.movedim(1, -1)).movedim(-1, 1)
            case "layer" | "norm" | "dropout":
                return module(a)
            case "activation":
                return module(a) if module is not None else activate(ACTIVATIONS[step.option % 8], a)
            case "sum":
                return a + b
            case "cat":
                return torch.cat([a, b], 1)
            case "add-in-place":
                return a.add_(b)
            case "move":
                return (a.flip(1), F.channel_shuffle(a, 2) if a.dim() > 2 else a.clone())[step.option % 2]
            case "pool":
                return a if a.dim() == 2 else (a.flatten(2).mean(2), a.flatten(2)[:, :, 1])[step.option % 2]
            case "keep":
                self.kept = a
                return a * 1.5
            case "read-weight":
                return a if module is None else a * module.weight.abs().mean()
        raise AssertionError(step.kind)

    def direct(self) -> set[str]:
        """Batch norms that in evaluation mode directly follow their only layer, which nothing else looks into.

        It follows the program, not the tensors: a second opinion.
        """
        made, reads = (
            [0],
            Counter[int](),
        )  # for each result, the step that made its memory; reads of that memory
        calls = Counter(
            step.module for step in self.steps if self.is_done(step, training=False) and step.module
        )
        for number, step in enumerate(self.steps, 1):
            same = not self.is_done(step, training=False) or self._returns_its_input(step)
            made.append(made[step.a] if same else number)
            if self.is_done(step, training=False):
                two = step.kind in ("sum", "cat", "add-in-place")
                reads.update([made[step.a], *([made[step.b]] if two else [])])
        reads.update(made[index] for index in self.returned)
        found = set()
        for step in self.steps:
            layer = self.steps[step.a - 1] if step.a else None
            if (
                step.kind == "norm"
                and self.is_done(step, training=False)
                and layer is not None
                and layer.kind == "layer"
                and calls[step.module] == calls[layer.module] == reads[made[step.a]] == 1
            ):
                found.add(step.module)
        return found

    def _returns_its_input(self, step: Step) -> bool:
        return (
            step.kind in ("dropout", "add-in-place")
            or (step.kind == "activation" and ACTIVATIONS[step.option % 8] in OVERWRITES)
            or (step.kind == "pool")
            or (step.kind == "read-weight" and not step.module)
        )


def activate(name: str, x: Tensor) -> Tensor:
    if name == "view_":
        x[:, :1].mul_(2)
        return x
    if name in ("mul_",):
        return x.mul_(0.5)
    return {"relu": F.relu, "relu_": F.relu_, "tanh": torch.tanh, "gelu": F.gelu}[name](x)
