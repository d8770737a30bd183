import pytest
import torch

from xhat.errors import UsageError
from xhat.study.devices import check_device, on_device
from xhat.study.plan import make_plan
from xhat.study.run import run
from xhat.study.spec import Data, Member, Network, TrainSpec
from xhat.study.train import train

ABSENT = not torch.cuda.is_available()
CUDA = TrainSpec(Network("mlp"), Data("digits"), (Member(0, 0.1),), 10, 8, device="cuda")


def test_the_cpu_is_there_and_its_random_generator_is_put_back():
    check_device("cpu")
    before = torch.get_rng_state()
    with on_device("cpu") as device:
        torch.rand(3)
        assert device == torch.device("cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_device_is_told():
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        check_device("tpu", present=False)


@pytest.mark.skipif(not ABSENT, reason="there is a CUDA device")
def test_a_missing_device_is_told_with_what_to_do(tmp_path):
    asked = dict.fromkeys(("claims", "model", "data", "seeds", "steps", "folder"))
    for attempt in (
        lambda: check_device("cuda"),
        lambda: make_plan("smoke", **asked, device="cuda"),
        lambda: run("smoke", claims=["lipschitz"], device="cuda", out=tmp_path),
        lambda: train(CUDA),
    ):
        with pytest.raises(UsageError, match="leave --device out to train on the CPU, or install"):
            attempt()
    # Workers elsewhere may have one.
    assert make_plan("smoke", **asked, device="cuda", elsewhere=True).device == "cuda"


@pytest.mark.skipif(ABSENT, reason="needs a CUDA device")
def test_a_gpu_trains_as_the_cpu_does():
    _, found = train(CUDA)
    _, expected = train(TrainSpec(Network("mlp"), Data("digits"), (Member(0, 0.1),), 10, 8))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
