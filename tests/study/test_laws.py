"""Every law holds for torch's batch norm, and fails for a batch norm with a planted fault."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xhat.study.laws import LAWS, gradients, lipschitz
from xhat.study.laws._cases import largest
from xhat.study.result import LawResult

ORDER = (
    "standardise",
    "any-moments",
    "gradients",
    "bias-cancels",
    "scale-invariance",
    "lipschitz",
    "curvature",
    "inference",
)

# Each law with the faults that it must notice.
FAULTS = {
    "standardise": ("unbiased", "wrong-eps", "keeps-mean"),
    "any-moments": ("unbiased", "wrong-eps", "keeps-mean"),
    "gradients": ("unbiased", "wrong-eps", "detached"),
    "bias-cancels": ("keeps-mean", "detached", "eval-uses-batch"),
    "scale-invariance": ("wrong-eps", "detached"),
    "lipschitz": ("unbiased", "wrong-eps", "detached"),
    "curvature": ("unbiased", "wrong-eps", "detached"),
    "inference": ("unbiased", "biased-running-var", "swapped-momentum", "eval-uses-batch"),
}


def plant(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Replace ``F.batch_norm``, and with it torch's layers, by a formula with one fault."""

    def batch_norm(
        y: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        m = len(y)
        mean, variance = y.mean(0), y.var(0, correction=0)
        if training and running_mean is not None and running_var is not None:
            kept = momentum if fault == "swapped-momentum" else 1 - momentum
            seen = variance if fault == "biased-running-var" else variance * m / (m - 1)
            with torch.no_grad():
                running_mean.copy_(kept * running_mean + (1 - kept) * mean)
                running_var.copy_(kept * running_var + (1 - kept) * seen)
        if not training and fault != "eval-uses-batch":
            mean, variance = running_mean, running_var
        elif fault == "unbiased":
            variance = variance * m / (m - 1)
        elif fault == "detached":
            mean, variance = mean.detach(), variance.detach()
        elif fault == "keeps-mean":
            mean = torch.zeros_like(mean)
        out = (y - mean) / (variance + eps + 1e-4 * (fault == "wrong-eps")).sqrt()
        out = out if weight is None else out * weight
        return out if bias is None else out + bias

    monkeypatch.setattr(F, "batch_norm", batch_norm)


def texts(result: LawResult) -> list[str]:
    """Return every text that a reader needs."""
    found = [result.title, result.statement, result.source, *(check.name for check in result.checks)]
    for figure in result.figures:
        found += [figure.id, figure.title, figure.caption, figure.alt]
        for panel in figure.panels:
            found += [panel.title, panel.x.title, panel.y.title, *(curve.name for curve in panel.curves)]
    for table in result.tables:
        found += [table.title, *table.columns]
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, LawResult]:
    return {law: check(0) for law, check in LAWS.items()}


def test_registry_order() -> None:
    assert tuple(LAWS) == ORDER


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("law", LAWS)
def test_law_holds(law: str, seed: int) -> None:
    result = LAWS[law](seed)
    assert result.passed, [check for check in result.checks if not check.passed]


@pytest.mark.parametrize("law", LAWS)
def test_law_holds_for_the_formula(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "none")
    assert LAWS[law](0).passed


@pytest.mark.parametrize(
    ("law", "fault"), [(law, fault) for law, faults in FAULTS.items() for fault in faults]
)
def test_law_fails_on_a_planted_fault(law: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, fault)
    assert not LAWS[law](0).passed


def test_failure_of_the_printed_form_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    proven = lipschitz._bracket
    monkeypatch.setattr(lipschitz, "_bracket", lambda g, y_hat, factor: proven(g, y_hat, 1 / len(g)))
    identity, printed = lipschitz.check(0).checks
    assert identity.passed
    assert not printed.passed
    assert printed.error == 1.0


def test_training_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"SGD": lambda p: torch.optim.SGD(p, lr=1e-6)}
    monkeypatch.setattr(gradients, "OPTIMISERS", still)
    assert [check.name for check in gradients.check(0).checks if not check.passed] == [
        "SGD reaches the moments: last loss / first loss"
    ]


@pytest.mark.parametrize("law", LAWS)
def test_result_is_plain_data(law: str, results: dict[str, LawResult]) -> None:
    result = results[law]
    plain = dataclasses.asdict(result)
    assert plain["id"] == law
    assert len(plain["checks"]) == len(result.checks)
    assert result.figures or result.tables
    assert all(text.strip() for text in texts(result))


@pytest.mark.parametrize("law", LAWS)
def test_figures_can_be_drawn(law: str, results: dict[str, LawResult]) -> None:
    for figure in results[law].figures:
        for panel in figure.panels:
            for curve in panel.curves:
                assert len(curve.x) == len(curve.y) > 0
                assert all(map(math.isfinite, curve.x + curve.y))
                assert not panel.y.log or min(curve.y) > 0
                assert not panel.x.log or min(curve.x) > 0


@pytest.mark.parametrize("law", LAWS)
def test_same_seed_same_result_and_global_generator_untouched(
    law: str, results: dict[str, LawResult]
) -> None:
    before = torch.get_rng_state()
    assert LAWS[law](0) == results[law]
    assert torch.equal(torch.get_rng_state(), before)


def test_printed_form_fails_as_a_bound_at_every_batch_size(results: dict[str, LawResult]) -> None:
    (table,) = results["lipschitz"].tables
    m, _, corrected, printed, failing = zip(*table.rows, strict=True)
    assert m == lipschitz.BATCH_SIZES
    assert max(map(float, corrected)) < 1e-14
    assert min(map(float, printed)) > 1e-3
    assert min(map(float, failing)) >= 0.95


def test_scale_error_has_slope_minus_two(results: dict[str, LawResult]) -> None:
    (figure,) = results["scale-invariance"].figures
    for curve in (c for c in figure.panels[0].curves if c.mode == "markers"):
        at = dict(zip(curve.x, curve.y, strict=True))
        a = sorted(at)
        assert (a[0], a[-1]) == pytest.approx((1e-4, 1e2))
        slope = math.log(at[a[-1]] / at[a[-17]]) / math.log(a[-1] / a[-17])  # two decades
        assert slope == pytest.approx(-2, abs=0.01)


def test_enumerated_bias_is_exact(results: dict[str, LawResult]) -> None:
    (table,) = results["inference"].tables
    for m, batches, share, biased, unbiased in table.rows:
        assert (batches, share) == (3 ** int(m), (int(m) - 1) / int(m))
        assert (biased, unbiased) == pytest.approx((share, 1.0), rel=1e-12)


def test_largest_keeps_nan() -> None:
    assert math.isnan(largest([0.0, math.nan, 1.0]))
