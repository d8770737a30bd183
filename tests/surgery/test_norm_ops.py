"""Which of torch's operations take the batch's statistics, by their schemas and by what they compute."""

import pytest
import torch
from torch import nn

from xhat.dataflow import Op, record
from xhat.surgery._norm_ops import _TAKES_BATCH_STATISTICS, takes_batch_statistics


def op_of(name: str, arguments: tuple[object, ...]) -> Op:
    flow = record(nn.Identity(), torch.ones(1), modes=("eval",)).eval
    assert flow is not None
    (call,) = flow.calls[""]
    return Op(0, name, call, (), (), frozenset(), arguments=arguments)


@pytest.mark.parametrize(("name", "when"), _TAKES_BATCH_STATISTICS.items())
def test_the_table_is_that_of_the_schemas(name: str, when: int | str) -> None:
    packet = getattr(torch.ops.aten, name)
    for overload in packet.overloads():
        arguments = [a.name for a in getattr(packet, overload)._schema.arguments if not a.kwarg_only]
        given: list[object] = [None] * len(arguments)
        if "training" in arguments and "running_mean" in arguments:
            assert arguments.index("training") == when
            for training in (True, False):
                given[arguments.index("training")] = training
                assert takes_batch_statistics(op_of(name, tuple(given))) is training
        elif "running_mean" in arguments:
            assert when == ("always" if "with_update" in name else "never")
            assert takes_batch_statistics(op_of(name, tuple(given))) is ("with_update" in name)
        else:  # there are none but the batch's
            assert takes_batch_statistics(op_of(name, tuple(given)))


@pytest.mark.parametrize("momentum", [0.0, 0.1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_what_torch_calls_is_known(momentum: float, training: bool, track: bool) -> None:
    norm = nn.BatchNorm2d(3, momentum=momentum, track_running_stats=track)
    flow = record(norm, torch.randn(4, 3, 2, 2), modes=("train" if training else "eval",))
    run = flow.train if training else flow.eval
    assert run is not None
    (op,) = [op for op in run.ops if op.name in _TAKES_BATCH_STATISTICS]
    assert takes_batch_statistics(op) is (training or not track)
