"""BN501 and BN502, with two real processes."""

import json

import pytest

from tests.ranks import run_two

# One process of two. Each case is diagnosed by both, in the same order.
WORKER = """
import json, sys, warnings
import torch, torch.distributed as dist
from pathlib import Path

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
import xhat, xhat.errors
from tests.doctor.trained import batches, trained
from xhat.norms import batch_norms

def moved(model, by):
    norm = list(batch_norms(model).values())[1]
    if rank:
        norm.running_mean += by * norm.running_var.sqrt()
    return model

def told(diagnosis):
    return [[f.code, f.severity, f.module, dict(f.evidence)] for f in diagnosis.findings if f.code > "BN3"]

given = batches(count=4, seed=rank)
said = {}
for name, by in {"equal": 0.0, "slight": 0.01, "apart": 0.5, "far": 3.0}.items():
    said[name] = told(xhat.diagnose(moved(trained("mlp", steps=60), by), given))
model = moved(trained("mlp", steps=60), 3.0)
mended = xhat.repair(model, xhat.diagnose(model, given), batches=given)
said["mended"] = told(mended.after)
said["statistics"] = torch.cat([n.running_mean for n in batch_norms(mended.model).values()]).tolist()
# One rank's statistics alone are not finite; all ranks recalibrate.
model = trained("mlp", steps=60)
if rank:
    list(batch_norms(model).values())[1].running_mean[0] = float("nan")
found = xhat.diagnose(model, given)
mended = xhat.repair(model, found, batches=given)
said["one"] = [f.code for f in found.findings if f.code > "BN2" and f.severity != "info"]
said["one mended"] = told(mended.after)
said["one statistics"] = torch.cat([n.running_mean for n in batch_norms(mended.model).values()]).tolist()
# A rank that fails does not leave the other waiting.
said["failed"] = []
for bad in (given, [torch.zeros(4, 3)]) if rank else (given[:1], given):
    try:
        xhat.diagnose(model, bad)
        said["failed"].append("")
    except xhat.errors.XhatError as error:
        said["failed"].append(str(error))
try:
    xhat.diagnose(model, given if rank else None)
except xhat.errors.UsageError as error:
    said["some"] = str(error)
few = batches(size=10, count=8, seed=rank)
said["few"] = told(xhat.diagnose(trained("mlp", steps=60), few))
said["fewest"] = told(xhat.diagnose(trained("mlp", steps=60), batches(size=4, count=8, seed=rank)))
said["synchronised"] = told(xhat.diagnose(
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(trained("mlp", steps=60)).eval(), few))
(folder / f"said{rank}.json").write_text(json.dumps(said))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_two(WORKER, folder)
    return [json.loads((folder / f"said{rank}.json").read_text()) for rank in range(2)]


def test_equal_ranks_have_no_finding(said):
    assert [each["equal"] for each in said] == [[], []]


@pytest.mark.parametrize(
    ("case", "severity", "off"), [("slight", "info", 0.01), ("apart", "warning", 0.5), ("far", "error", 3.0)]
)
def test_ranks_that_differ_are_found_on_both_and_nothing_else(said, case, severity, off):
    for each in said:
        ((code, found, module, evidence),) = each[case]
        assert (code, found, module) == ("BN501", severity, "hidden.1.1")
        assert evidence["mean_difference"] == [pytest.approx(off, rel=1e-3)]
        assert evidence["variance_ratio"] == [1.0]


def test_repair_gives_both_the_same_statistics(said):
    assert [each["mended"] for each in said] == [[], []]
    assert said[0]["statistics"] == said[1]["statistics"]


def test_statistics_are_repaired_on_all_ranks_if_on_one(said):
    assert "BN201" not in said[0]["one"]
    assert "BN201" in said[1]["one"]
    assert [each["one mended"] for each in said] == [[], []]
    assert said[0]["one statistics"] == said[1]["one statistics"]


def test_a_rank_that_fails_tells_the_others(said):
    assert [each["failed"][0] for each in said] == ["", ""]
    assert "the diagnosis failed on rank 1" in said[0]["failed"][1]
    assert "evaluation mode on batch 0 (tensor (4, 3))" in said[1]["failed"][1]
    assert all("some ranks diagnose with batches" in each["some"] for each in said)


def test_small_batches_of_each_rank_are_found_and_nothing_else(said):
    for each in said:
        ((code, severity, _, evidence),) = each["few"]
        assert (code, severity) == ("BN502", "warning")
        assert evidence["worth"] == [[10.0, 10.0]] * 4


def test_batches_that_are_small_together_are_no_matter_of_synchronising(said):
    for each in said:
        assert {code for code, *_ in each["fewest"]} == {"BN303"}


def test_synchronised_norms_see_all_ranks(said):
    assert [each["synchronised"] for each in said] == [[], []]
