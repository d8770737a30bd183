"""Expected seconds of a run on one core: only order and progress hang on it, never a number.

A step of a network costs, forward and backward,

    overhead·layers + members·(flop·6·N·multiplications + value·N·values),

with N samples a batch, and by sample the multiplications of its layers and the values that they put out. The
three constants were fitted once on two cores to the networks of the presets, which they give to about a third.
"""

from dataclasses import dataclass

from xhat.study.measures import Evaluate
from xhat.study.spec import Data, LawSpec, Measure, Network, Spec, TrainSpec

_OVERHEAD = {"mlp": 1e-4, "deep-linear": 1e-4, "vgg": 6e-4, "resnet": 6e-4}  # s a layer
_FLOP = {"mlp": 1.8e-11, "deep-linear": 9e-12, "vgg": 9e-12, "resnet": 9e-12}  # s
_VALUE = {"mlp": 8e-9, "deep-linear": 2e-9, "vgg": 4.5e-9, "resnet": 4.5e-9}  # s, without normalisation
_NORMALISED = 1.7  # times the time of a value
_USERS = 0.03  # s a step of a network that is not known
_PIXELS = {"digits": (1, 8), "fashion-mnist": (1, 28), "cifar10": (3, 32)}  # channels, height and width
_CLASSES = 10
_MEASURE = 30  # steps that a measure is worth, roughly
_WIDTHS = {"mlp": 50, "deep-linear": 10, "vgg": 16, "resnet": 16}  # by default


@dataclass(frozen=True)
class _Size:
    """What one sample costs in one pass."""

    layers: int
    multiplications: float
    values: float


def cost(spec: Spec) -> float:
    """Return the expected seconds of a run."""
    if isinstance(spec, LawSpec):
        return 1.0
    return 0.2 + _step(spec) * _steps(spec)


def _step(spec: TrainSpec) -> float:
    name = spec.network.name
    if name not in _FLOP:
        return _USERS
    size = _size(spec.network, spec.data)
    value = _VALUE[name] * (1 if spec.network.norm == "none" else _NORMALISED)
    batch = 6 * _FLOP[name] * size.multiplications + value * size.values
    return _OVERHEAD[name] * size.layers + len(spec.members) * spec.batch_size * batch


def _steps(spec: TrainSpec) -> float:
    """Return how many steps the run's passes are worth."""
    steps = float(spec.steps)
    if spec.probe:
        steps += len(spec.probe.at) * (1 + len(spec.probe.ratios))
    if spec.record:
        steps += 2 * len(spec.record.at)
    return steps + sum(_worth(spec, measure) * len(measure.at) for measure in spec.measures)


def _worth(spec: TrainSpec, measure: Measure) -> float:
    if isinstance(measure, Evaluate):  # forward only, a third of a step
        return ((spec.data.test or 10_000) + measure.train) / spec.batch_size / 3
    return _MEASURE


def _size(network: Network, data: Data) -> _Size:
    options = dict(network.options)
    width = int(options.get("width", _WIDTHS[network.name]))
    channels, side = _PIXELS.get(data.name.partition(":")[0], (1, 28))
    side = side // data.pool if side >= 7 * data.pool else side
    if network.name == "vgg":
        return _vgg(width, channels, side)
    if network.name == "resnet":
        return _resnet(width, int(options.get("blocks", 1)), channels, side)
    linear = network.name == "deep-linear"
    depth = int(options.get("depth", 25 if linear else 8))
    if linear:
        return _Size(depth, depth * width**2, depth * width)
    ends = width * (channels * side**2 + _CLASSES)
    return _Size(depth + 1, ends + (depth - 1) * width**2, depth * width)


def _vgg(width: int, channels: int, side: int) -> _Size:
    convolutions = []
    before = channels
    for stage, after in enumerate((width, 2 * width, 4 * width, 4 * width)):
        for _ in range(2):
            convolutions.append((before, after, side // 2**stage, 3))
            before = after
    return _convolutional(convolutions)


def _resnet(width: int, blocks: int, channels: int, side: int) -> _Size:
    convolutions = [(channels, width, side, 3)]
    before = width
    for stage in range(3):
        here = -(-side // 2**stage)
        for _ in range(blocks):
            after = width * 2**stage
            convolutions += [(before, after, here, 3), (after, after, here, 3)]
            if before != after:
                convolutions.append((before, after, here, 1))
            before = after
    return _convolutional(convolutions)


def _convolutional(convolutions: list[tuple[int, int, int, int]]) -> _Size:
    """Return the size of convolutions, each (channels before, after, height and width after, kernel)."""
    return _Size(
        len(convolutions),
        sum(before * after * (side * kernel) ** 2 for before, after, side, kernel in convolutions),
        sum(after * side**2 for _, after, side, _ in convolutions),
    )
