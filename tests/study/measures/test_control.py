import numpy as np
import pytest
import torch

from xhat.study.measures import Control
from xhat.study.measures.control import WAYS

from .scenes import SAMPLES, alone, broken, data, member, together

AFFINE, LAYER, ALL = (WAYS.index(way) for way in ("affine", "layer", "all"))
ONE = {"depth": 1, "activation": "identity"}


def control(*rates: float, layer: int = 0, cap: int = 30) -> Control:
    return Control((0,), layer=layer, rates=rates, cap=cap, samples=SAMPLES)


def targets(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(4_000_037)
    up, wider = (torch.randint(0, 2, (2, *mean.shape), generator=generator) * 2 - 1).numpy()
    return mean + 0.5 * up * std, std * 1.5**wider


def by_affine(models: list, lr: float, steps: int) -> np.ndarray:
    """BN's moments are β and γσ/√(σ² + ε): descent on them by hand."""
    layers = [model.hidden[0][1] for model in models]
    gamma, beta = (
        np.stack([getattr(layer, n).detach().double().numpy() for layer in layers])
        for n in ("weight", "bias")
    )
    z = np.stack([model.hidden[0][0](data().train_x).detach().double().numpy() for model in models])
    factor = np.sqrt(z.var(1) / (z.var(1) + layers[0].eps))
    start = np.abs(gamma) * factor
    mean, std = targets(beta, start)
    rows = []
    for _ in range(steps + 1):
        rows.append(np.mean(((beta - mean) / start) ** 2 + np.log(np.abs(gamma) * factor / std) ** 2, axis=1))
        beta = beta - lr * 2 * (beta - mean) / start**2
        gamma = gamma - lr * 2 * np.log(np.abs(gamma) * factor / std) / gamma
    return np.stack(rows, 1) / rows[0][:, None]


def by_weights(model, lr: float, steps: int) -> np.ndarray:
    """Moments of Wx + b from the mean and covariance of x: descent on W and b by hand."""
    x = data().train_x.double().numpy()
    centre, covariance = x.mean(0), np.cov(x.T, bias=True)
    w, b = (p.detach().double().numpy() for p in model.hidden[0][0].parameters())
    start = np.sqrt(np.einsum("ui,ij,uj->u", w, covariance, w))
    mean, std = (t[0] for t in targets((w @ centre + b)[None], start[None]))
    rows = []
    for _ in range(steps + 1):
        spread = np.sqrt(np.einsum("ui,ij,uj->u", w, covariance, w))
        far, wide = (w @ centre + b - mean) / start**2, np.log(spread / std)
        rows.append(np.mean(far**2 * start**2 + wide**2))
        w, b = (
            w - lr * 2 * (far[:, None] * centre + (wide / spread**2)[:, None] * (w @ covariance)),
            b - lr * 2 * far,
        )
    return np.array(rows) / rows[0]


def assert_descends(found: dict, way: int, expected: np.ndarray) -> None:
    """Errors are as by hand until every member has reached the goal; then descent ends."""
    steps = found["steps"][:, way]
    assert steps == pytest.approx((expected < 0.01).argmax(1))
    last = int(steps.max())
    assert 1 < last < expected.shape[1]
    for row, hand in zip(found["error"][:, way], expected, strict=True):
        assert row[: last + 1] == pytest.approx(hand[: last + 1], rel=2e-3)
        assert (row[last:] == row[last]).all()


@pytest.mark.parametrize("count", [1, 2])
def test_descent_through_gamma_and_beta_is_the_one_by_hand(count):
    models = [member(seed, **ONE) for seed in range(count)]
    for scene in [together(*models)] + ([alone(models[0])] if count == 1 else []):
        found = control(0.1).take(scene)
        assert_descends(found, AFFINE, by_affine(models, 0.1, 30))
        assert np.isnan(found["steps"][:, LAYER]).all()


def test_without_gamma_and_beta_batch_norms_moments_cannot_be_moved():
    found = control(0.5, 0.01, layer=1).take(alone(member(0, activation="relu")))
    assert found["error"][0, ALL] == pytest.approx(np.ones(31), abs=0.01)
    assert found["steps"][0, ALL] == 31


def test_descent_through_weights_is_the_one_by_hand():
    model = member(0, "none", **ONE)
    found = control(0.02).take(alone(model))
    for way in (LAYER, ALL):  # there is but one layer
        assert_descends(found, way, by_weights(model, 0.02, 30)[None])
    assert np.isnan(found["steps"][0, AFFINE])


def test_through_all_weights_the_earlier_ones_move_too():
    found = control(0.02, layer=1).take(alone(member(0, "none")))
    assert found["error"][0, LAYER] != pytest.approx(found["error"][0, ALL], rel=0.01)


def test_the_best_rate_is_each_members_own():
    models = [member(seed, **ONE) for seed in range(2)]
    rates = (0.3, 0.1, 0.03, 0.01)
    alone_ = [control(rate).take(together(*models)) for rate in rates]
    steps = np.stack([found["steps"][:, AFFINE] for found in alone_])
    best = control(*rates).take(together(*models))
    assert best["steps"][:, AFFINE] == pytest.approx(steps.min(0))
    for index in range(2):
        assert best["rate"][index, AFFINE] == rates[int(steps[:, index].argmin())]


def test_where_no_rate_reaches_the_goal_the_lowest_end_is_shown():
    found = control(1e-3, 2e-3, 1e6, cap=20).take(alone(member(0, **ONE)))
    assert (found["steps"][0, AFFINE], found["rate"][0, AFFINE]) == (21, 2e-3)
    assert 0.01 < found["error"][0, AFFINE, -1] < 1


def test_ensembles_and_members_that_are_not_finite():
    found = control(0.1, 0.03).take(together(broken(member(0)), member(1)))
    assert np.isnan(found["steps"][0]).all()
    assert np.isnan(found["error"][0]).all()
    assert np.isfinite(found["steps"][1, [AFFINE, ALL]]).all()


def test_weights_come_out_as_they_went_in():
    model = member(0)
    before = {name: values.clone() for name, values in model.named_parameters()}
    control(0.1).take(alone(model))
    assert all(torch.equal(before[name], values) for name, values in model.named_parameters())
