"""False alarms of the statistical tests stay at their stated rate, and what differs is found."""

import math

import pytest
import torch
from torch import Tensor

from xhat.doctor._chance import Running, differing, unlike
from xhat.doctor._seen import Collected, Seen

CHANNELS, REPEATS = 12, 200
# At a rate of 1%, more than this many of 200 repetitions has a chance below 0.1%: binomial.
MOST = 8


def seen_of(parts: list[Tensor]) -> Seen:
    collected = Collected()
    for part in parts:
        collected.begin()
        collected.add(part, len(part))
    seen = collected.seen()
    assert seen is not None
    return seen


def images(draw: torch.Generator, size: int, count: int, *, pixels: int = 16) -> list[Tensor]:
    """Batches whose pixels share their sample's level: correlation 0.5 within an image."""
    level = torch.randn(count, size, CHANNELS, 1, generator=draw)
    return list((level + torch.randn(count, size, CHANNELS, pixels, generator=draw)) / math.sqrt(2))


def exact(**other: float) -> Running:
    values = {"mean": 0.0, "variance": 1.0, **other}
    return Running(
        torch.full((CHANNELS,), values["mean"], dtype=torch.float64),
        torch.full((CHANNELS,), values["variance"], dtype=torch.float64),
        1e-5,
        0.0,
        1000,
    )


@pytest.mark.parametrize(("size", "count"), [(16, 2), (16, 8), (64, 4)])
def test_true_statistics_rarely_differ(size, count):
    draw = torch.Generator().manual_seed(size * count)
    alarms = sum(
        bool(differing({"bn": seen_of(images(draw, size, count))}, {"bn": exact()})["bn"].beyond.any())
        for _ in range(REPEATS)
    )
    assert alarms <= MOST


def test_the_noise_of_the_running_average_is_no_difference():
    """Running statistics of 60 steps at momentum 0.3, as torch updates them."""
    draw = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(REPEATS // 2):
        mean, variance = torch.zeros(CHANNELS), torch.ones(CHANNELS)
        for part in images(draw, 32, 60):
            x = part.transpose(0, 1).flatten(1)
            mean, variance = mean + 0.3 * (x.mean(1) - mean), variance + 0.3 * (x.var(1) - variance)
        running = Running(mean.double(), variance.double(), 1e-5, 0.3, 60)
        found = differing({"bn": seen_of(images(draw, 32, 4))}, {"bn": running})
        alarms += bool(found["bn"].beyond.any())
    assert alarms <= MOST // 2 + 1


@pytest.mark.parametrize(("size", "count"), [(16, 4), (32, 8)])
def test_batches_at_random_are_rarely_unlike(size, count):
    draw = torch.Generator().manual_seed(1)
    alarms = sum(
        bool(unlike({"bn": seen_of(images(draw, size, count))})["bn"][1].any()) for _ in range(REPEATS)
    )
    assert alarms <= MOST


@pytest.mark.parametrize("other", [{"mean": 0.6}, {"variance": 4.0}, {"variance": 0.25}])
def test_other_statistics_differ(other):
    seen = {"bn": seen_of(images(torch.Generator().manual_seed(2), 64, 4))}
    found = differing(seen, {"bn": exact(**other)})["bn"]
    assert found.beyond.all()
    assert found.mean.mean() == pytest.approx(other.get("mean", 0.0), abs=0.1)
    assert found.ratio.log().mean().exp() == pytest.approx(other.get("variance", 1.0), rel=0.15)


def test_unlike_batches_are_found_in_the_channels_that_are():
    parts = images(torch.Generator().manual_seed(3), 32, 4)
    for place, part in enumerate(parts):
        part[:, :5] += 2.0 * (place % 2)
    f, beyond = unlike({"bn": seen_of(parts)})["bn"]
    assert beyond.tolist() == [True] * 5 + [False] * (CHANNELS - 5)
    assert f[:5].min() > 50


def test_pixels_are_no_independent_values():
    """With a correlation of 1 within an image, a batch of 16 images is worth 16 values, not 256."""
    draw = torch.Generator().manual_seed(4)
    alike = [torch.randn(16, CHANNELS, 1, generator=draw).expand(-1, -1, 16) for _ in range(8)]
    apart = [torch.randn(16, CHANNELS, 16, generator=draw) for _ in range(8)]
    assert seen_of(alike).worth() == pytest.approx(16)
    assert seen_of(apart).worth() == pytest.approx(256, rel=0.25)


def test_a_channel_that_rarely_speaks_is_not_found_silent():
    """As a ReLU's channel that one sample in 200 excites: most of the time 32 samples hold none of these."""
    parts = [torch.zeros(16, CHANNELS, 4) for _ in range(2)]
    found = differing({"bn": seen_of(parts)}, {"bn": exact(mean=0.01, variance=0.02)})["bn"]
    assert not found.beyond.any()
