"""Surgery on random networks keeps their outputs or refuses, and folds every batch norm that it must.

As a script it draws more of them and counts:

    python -m tests.surgery.test_random_networks --examples 2000
"""

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from tests.surgery.nets import fresh, gap, norms_of, outputs, quickly, randomise_
from tests.surgery.programs import Draw, Random, draws
from xhat import add_batch_norm, drop_bias, fold, remove_batch_norm

TOLERANCE = 1e-7  # of float64 outputs, relative; a wrong change shows per cents
SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


def made(dims: int, drawn: Sequence[Draw], returned: Sequence[int]) -> tuple[Random, Tensor]:
    torch.manual_seed(0)
    net = Random(dims, drawn, returned).double()
    randomise_(net)
    return net, torch.randn(3, 4, *[4] * dims, dtype=torch.float64)


def differs(before: nn.Module, after: nn.Module, x: Tensor) -> bool:
    """Whether outputs in evaluation mode differ, on the inputs and on others."""
    pairs = ((outputs(before, given), outputs(after, given)) for given in ((x,), fresh((x,))))
    return any(gap(old, new) > TOLERANCE for old, new in pairs)


def in_training(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a copy in training mode, and what its running variances are afterwards."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    with torch.no_grad():
        found = model(x.clone())
    return found, [buffer for name, buffer in model.named_buffers() if name.endswith("running_var")]


def judged(net: Random, x: Tensor) -> Counter[str]:
    """Do all four, and count what was done and what is wrong."""
    counts: Counter[str] = Counter(networks=1, norms=len(norms_of(net)))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold(net, x)
    done = {change.module for change in folded.changes}
    told = [change.module for change in folded.changes] + [refusal.module for refusal in folded.refusals]
    counts |= {"folded": len(done), "refused": len(folded.refusals), "must": len(net.direct())}
    counts["missed"] = len(net.direct() - done)
    counts["untold"] = sorted(told) != sorted(norms_of(net))
    counts["fold wrong"] = differs(net, folded.model, x)
    dropped = drop_bias(net, x)
    counts["biases dropped"] = len(dropped.changes)
    counts["drop_bias wrong"] = differs(net, dropped.model, x) or any(
        gap(old, new) > TOLERANCE
        for old, new in zip(in_training(net, x), in_training(dropped.model, x), strict=True)
    )
    without = remove_batch_norm(net, x)
    counts["removed"] = len(without.changes)
    counts["remove_batch_norm wrong"] = differs(net, without.model, x)
    counts["remove_batch_norm untold"] = norms_of(without.model) != [r.module for r in without.refusals]
    withal = add_batch_norm(net, x)
    counts["added"] = len(withal.changes)
    counts["add_batch_norm wrong"] = differs(net, withal.model, x)
    counts["changed wrong"] = any(
        not torch.equal(state[key], value) for key, value in net.state_dict().items()
    )
    return counts


pytestmark = pytest.mark.usefixtures("quick")
WRONG = ("missed", "untold", "wrong")


def wrong(counts: Counter[str]) -> dict[str, int]:
    return {key: count for key, count in counts.items() if count and key.endswith(WRONG)}


@settings(max_examples=120, **SETTINGS)
@given(draws())
def test_outputs_stay_or_it_is_refused(drawn: tuple[int, list[Draw], list[int]]) -> None:
    assert wrong(judged(*made(*drawn))) == {}


def test_the_program_knows_what_directly_follows() -> None:
    layer, norm = ("layer", 0, 0, 1), ("norm", 0, 0, 1)
    table: dict[str, tuple[list[Draw], list[int], int]] = {
        "plain": ([layer, norm], [], 1),
        "returned": ([layer, norm], [1], 0),
        "relu between": ([layer, ("activation", 0, 0, 0), norm], [], 0),
        "used twice": ([layer, norm, ("sum", 0, 0, 0), ("activation", 1, 0, 0)], [], 1),
        "also summed": ([layer, norm, ("sum", 0, 1, 0)], [], 0),
        "kept": ([layer, ("keep", 0, 0, 0), ("norm", 1, 0, 1)], [], 0),
        "only in training": ([layer, ("norm", 0, 0, 12)], [], 0),
        "weight read": ([layer, norm, ("read-weight", 0, 0, 0)], [], 0),
    }
    for name, (drawn, returned, number) in table.items():
        assert len(made(1, drawn, returned)[0].direct()) == number, name


def test_a_wrong_fold_is_seen() -> None:
    """The judge must be able to find fault."""
    net, x = made(2, [("layer", 0, 0, 1), ("norm", 0, 0, 1)], [])
    other = copy.deepcopy(net)
    other.add_module(next(iter(net.direct())), nn.Identity())
    assert differs(net, other, x)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    total: Counter[str] = Counter()
    failed: list[str] = []

    @settings(max_examples=parser.parse_args().examples, **SETTINGS)
    @given(draws())
    def draw(drawn: tuple[int, list[Draw], list[int]]) -> None:
        try:
            counts = judged(*made(*drawn))
        except Exception as error:
            counts = Counter({"raised wrong": 1})
            failed.append(f"{drawn}: {type(error).__name__}: {error}")
        total.update(counts)
        if wrong(counts):
            failed.append(f"{drawn}: {wrong(counts)}")

    with quickly():
        draw()
    for key, count in total.items():
        print(f"{count:8} {key}")
    print(*failed[:10], sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
