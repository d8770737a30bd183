"""The study's own networks and data by preset: small where minutes count, the papers' sizes for ``paper``."""

from xhat.errors import UsageError
from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.result import Table
from xhat.study.spec import Data, Network

_CIFAR = Data("cifar10")


def vgg(preset: str) -> Subject:
    """Return the VGG-like network of eight convolutions."""
    width, data, seeds, steps, batch = {
        "smoke": (4, Data(train=320, test=200, pool=2), 3, 12, 32),
        "quick": (8, Data(train=5000, test=1000, pool=2), 4, 240, 64),
        "full": (16, Data(train=10_000, test=2000, pool=2), 6, 300, 128),
        "paper": (64, _CIFAR, 6, 15_000, 128),
    }[preset]
    init = "xavier" if preset == "paper" else "he"  # [S] started from Glorot's
    return Subject("VGG", Network("vgg", options=(("width", width),)), data, seeds, steps, batch, init)


def resnet(preset: str) -> Subject:
    """Return the small ResNet of three stages."""
    width, blocks, data, seeds, steps, batch = {
        "smoke": (4, 1, Data(train=320, test=200, pool=2), 3, 12, 32),
        "quick": (8, 1, Data(train=5000, test=1000, pool=2), 4, 160, 64),
        "full": (16, 1, Data(train=10_000, test=2000, pool=2), 6, 300, 128),
        "paper": (16, 3, _CIFAR, 6, 15_000, 128),
    }[preset]
    options = (("width", width), ("blocks", blocks))
    return Subject("ResNet", Network("resnet", options=options), data, seeds, steps, batch)


def mlp(preset: str, *, depth: int = 8, activation: str = "relu", steps: int | None = None) -> Subject:
    """Return the multi-layer perceptron of ``depth`` hidden layers, trained as an ensemble."""
    width, data, seeds, default, batch = {
        "smoke": (16, Data(train=320, test=200, pool=4), 3, 12, 32),
        "quick": (32, Data(train=5000, test=1000, pool=2), 10, 200, 64),
        "full": (100, Data(train=10_000, test=2000, pool=2), 10, 600, 64),
        "paper": (100, Data(train=10_000, test=2000), 20, 5000, 128),
    }[preset]
    return Subject(
        "MLP",
        Network("mlp", options=(("depth", depth), ("width", width), ("activation", activation))),
        data,
        seeds,
        steps or default,
        batch,
        init="he" if activation == "relu" else "xavier",
    )


def deep_linear(preset: str) -> Subject:
    """Return the deep linear network of [S], 25 layers of 10×10 at every preset but ``smoke``."""
    depth, seeds, steps = {
        "smoke": (5, 3, 12),
        "quick": (25, 10, 500),
        "full": (25, 10, 5000),
        "paper": (25, 20, 10_000),
    }[preset]
    return Subject(
        "deep linear net",
        Network("deep-linear", options=(("depth", depth),)),
        Data("gaussian"),
        seeds,
        steps,
        1000,
        init="xavier",
    )


def subjects_table(*subjects: Subject) -> Table:
    """Return the table of what was trained, for a claim's section."""
    columns = ("network", "data", "seeds", "steps", "batch size", "initial weights")
    rows = (
        (_network(s), _describe(s.data), s.seeds, s.steps, s.batch_size, s.init)
        for s in dict.fromkeys(subjects)
    )
    return Table("What was trained: plain SGD, one thread a run", columns, tuple(rows))


def _network(subject: Subject) -> str:
    options = dict(subject.network.options)
    if subject.network.name == "vgg":
        return say("VGG-like, 8 convolutions, {width} channels at first", width=options["width"])
    if subject.network.name == "resnet":
        count = 6 * int(options["blocks"]) + 2
        return say("ResNet of {count} layers, {width} channels at first", count=count, width=options["width"])
    if subject.network.name == "deep-linear":
        return say("deep linear network, {depth} layers of 10×10", depth=options["depth"])
    if subject.network.name == "mlp":
        return say(
            "MLP, {depth} hidden {activation} layers of {width}",
            depth=options["depth"],
            activation=options["activation"],
            width=options["width"],
        )
    return subject.name


def _describe(data: Data) -> str:
    if data.name == "gaussian":
        return "1,000 Gaussian inputs"
    words = [data.name]
    if data.train is not None:
        words.append(say("up to {train} training and {test} test samples", train=data.train, test=data.test))
    if data.pool > 1:
        words.append(say("images pooled {pool}×{pool}", pool=data.pool))
    return listed(words, ", ")


def users(preset: str, model: str, data: str) -> Subject:
    """Return a user's network on the user's data.

    Raises:
        UsageError: one of the two is not named.
    """
    if not model or not data:
        raise UsageError("--model and --data go together: name both, each as module:callable")
    seeds, steps, batch = {
        "smoke": (3, 12, 32),
        "quick": (4, 300, 64),
        "full": (6, 1000, 128),
        "paper": (6, 15_000, 128),
    }[preset]
    return Subject(model, Network(model), Data(data), seeds, steps, batch, init="own")
