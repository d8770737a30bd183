"""Recalibration over two real processes: weighted by count, the same bits on both."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_two

# One process of two. Each case is run by both, in the same order, on batches of their own.
WORKER = """
import json, sys, warnings
import torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from torch import nn

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
import xhat
from tests.surgery.test_recalibrate_ranks import CASES, batches_of, make

said = {}
for case, (sizes, options) in CASES.items():
    model = make(options.pop("wrap", None))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if options.pop("group", False):
        options["process_group"] = dist.new_group([0, 1])
    try:
        result = xhat.recalibrate_(model, batches_of(case, rank), **options)
        said[case] = [result.batches, result.skipped, result.passes, result.values, dict(result.kept)]
    except Exception as error:
        said[case] = f"{type(error).__name__}: {error}"
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), case
    assert model.training
    state = {key.removeprefix("module."): value for key, value in model.state_dict().items()}
    save_file(state, folder / f"{case}{rank}.safetensors")
alone = dist.new_group([0])
try:
    result = xhat.recalibrate_(make(None), batches_of("even", rank), process_group=alone)
    said["alone"] = result.batches
except Exception as error:
    said["alone"] = f"{type(error).__name__}: {error}"
(folder / f"said{rank}.json").write_text(json.dumps(said))
dist.destroy_process_group()
"""

# Sizes of the batches of rank 0 and rank 1, and the options of the call.
CASES: dict[str, tuple[tuple[tuple[int, ...], tuple[int, ...]], dict]] = {
    "even": (((4, 4), (4, 4)), {}),
    "uneven": (((2, 7, 3), (9,)), {}),
    "many": (((2, 2, 2, 2), (2,) * 11), {"limit": 9}),
    "one-has-none": (((), (3, 4)), {}),
    "synchronised": (((2, 7, 3), (9,)), {"wrap": "sync"}),
    "ddp": (((2, 7, 3), (9,)), {"wrap": "ddp"}),
    "group": (((2, 7, 3), (9,)), {"group": True}),
    "single": (((3, 1), (1, 5, 1)), {}),
    "sequential": (((2, 7, 3), (9,)), {"sequential": True}),
    "sequential-one-has-none": (((3, 1), ()), {"sequential": True}),
    "none": (((), ()), {}),
    "none-sequential": (((), ()), {"sequential": True}),
    "only-single": (((1, 1), (1,)), {}),
    "bad": (((4, 4), (4, 4)), {}),
    "bad-sequential": (((4, 4), (4, 4)), {"sequential": True}),
    "after": (((4, 4), (4, 4)), {}),
}
SUCCEED = [case for case in CASES if not case.startswith(("none", "only", "bad"))]


def make(wrap: str | None) -> torch.nn.Module:
    from torch import nn

    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4)
    )
    if wrap == "sync":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model) if wrap == "ddp" else model


def batches_of(case: str, rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    batches = [
        torch.randn(size, 8, generator=generator) * (1 + rank) + 3 * rank for size in CASES[case][0][rank]
    ]
    if case.startswith("bad") and rank == 1:
        batches[1][0, 0] = torch.inf
    return batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_two(WORKER, folder)
    return folder


def said(folder: Path, case: str) -> list:
    return [json.loads((folder / f"said{rank}.json").read_text())[case] for rank in range(2)]


@pytest.mark.parametrize("case", SUCCEED)
def test_both_ranks_write_the_same_bits_weighted_by_count(folder, case):
    first, second = (load_file(folder / f"{case}{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    used = [
        [batch for batch in batches_of(case, rank) if case != "single" or len(batch) > 1] for rank in range(2)
    ]
    limit = CASES[case][1].get("limit")
    used = [batches[:limit] for batches in used]
    # Layer 1 sees the batches themselves: the union over ranks is the oracle.
    values = torch.cat([batch for batches in used for batch in batches]).double()
    values = values.view(-1, 2, 4).movedim(1, 0).flatten(1)
    torch.testing.assert_close(first["1.running_mean"].double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first["1.running_var"].double(), values.var(1), rtol=1e-6, atol=0)
    assert first["1.num_batches_tracked"] == sum(map(len, used))
    # Layer 4 sees what layer 1 makes of each batch by itself, or with its new statistics.
    model = make(None)
    model.load_state_dict(first)
    outputs = []
    with torch.no_grad():
        for batch in (batch for batches in used for batch in batches):
            model[1].train("sequential" not in case)
            outputs.append(model[:4](batch).double())
    seen = torch.cat(outputs)
    torch.testing.assert_close(first["4.running_mean"].double(), seen.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first["4.running_var"].double(), seen.var(0), rtol=1e-5, atol=1e-5)
    skipped = 3 if case == "single" else 0
    passes = 2 if "sequential" in case else 1
    count = values.shape[1] // 4
    assert (
        said(folder, case) == [[sum(map(len, used)), skipped, passes, {"1": 4 * count, "4": count}, {}]] * 2
    )


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("none", "DataError: there are no batches", "DataError: there are no batches"),
        (
            "none-sequential",
            "DataError: the first batch reaches none",
            "DataError: the first batch reaches none",
        ),
        ("only-single", "DataError: each of the 3 batches", "DataError: each of the 3 batches"),
        ("bad", "DataError: recalibration failed on rank 1", "DataError: batch 1: 1 of 32 values"),
        ("bad-sequential", "DataError: recalibration failed on rank 1", "DataError: batch 1: 1 of 32 values"),
    ],
)
def test_what_one_rank_cannot_do_neither_does(folder, case, first, second):
    told = said(folder, case)
    assert told[0].startswith(first)
    assert told[1].startswith(second)


def test_a_group_without_this_process(folder):
    assert said(folder, "alone")[0] == 2
    assert said(folder, "alone")[1].startswith("UsageError: this process is not in process_group")
