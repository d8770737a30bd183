"""The operations with which a batch norm normalised in a run, and which statistics it took."""

from typing import Literal

import torch
from torch import nn

from xhat.dataflow import Access, Call, Flow, Op, Use
from xhat.lang import say
from xhat.norms import is_fixed_norm
from xhat.surgery._arithmetic import scale_and_shift
from xhat.surgery._refused import Refused

# When each of torch's operations takes the statistics of its input: by its argument “training” of that position.
_TAKES_BATCH_STATISTICS: dict[str, int | Literal["always", "never"]] = {
    "batch_norm": 5,
    "native_batch_norm": 5,
    "cudnn_batch_norm": 5,
    "miopen_batch_norm": 5,
    "_native_batch_norm_legit": 5,
    "_native_batch_norm_legit_functional": 5,
    "_native_batch_norm_legit_no_training": "never",
    "_batch_norm_no_update": "never",
    "_batch_norm_with_update": "always",
    "_batch_norm_with_update_functional": "always",
    "batch_norm_elemt": "always",  # SyncBatchNorm's, which normalises by what other operations found
}
_WITHOUT_STATISTICS = (
    6  # arguments of _native_batch_norm_legit.no_stats, which has no running statistics to take
)


def takes_batch_statistics(op: Op) -> bool:
    """Whether an operation of batch norm normalises with the statistics of its input."""
    when = _TAKES_BATCH_STATISTICS[op.name]
    if isinstance(when, str):
        return when == "always"
    return len(op.arguments) <= _WITHOUT_STATISTICS or bool(op.arguments[when])


def norm_op(flow: Flow, call: Call, *, fixed: bool = True) -> tuple[Op | None, Access]:
    """Return the operation with which a batch norm normalises in a call, and the tensor that it normalises.

    A batch norm of constant statistics has no such operation, but multiplies and adds.

    Args:
        flow: A run.
        call: One of a batch norm's calls in it.
        fixed: Whether it must normalise with its running statistics.

    Raises:
        Refused: it normalises several times, or against ``fixed`` with the batch's statistics.
    """
    ops = [
        op
        for op in flow.ops[call.begin : call.end]
        if op.name in _TAKES_BATCH_STATISTICS and op.call.is_within(call)
    ]
    if len(ops) != 1 or not ops[0].reads:
        if not ops and call.inputs:
            return None, call.inputs[0]
        raise Refused(say("its class normalises several times in a call"))
    op = ops[0]
    if fixed and takes_batch_statistics(op):
        raise Refused(say("it normalises with the batch's statistics, in evaluation mode too"))
    return op, op.reads[0]


def norm_ops(
    flow: Flow, model: nn.Module, name: str, *, fixed: bool = True
) -> list[tuple[Op | None, Access]]:
    """Return the same for all calls of the batch norm of that full name.

    Raises:
        Refused: also where it was not called, or normalises in an unknown way.
    """
    if name not in flow.calls:
        raise Refused(say("the example inputs did not reach it"))
    reads = [norm_op(flow, call, fixed=fixed) for call in flow.calls[name]]
    if any(op is None for op, _ in reads) and not is_fixed_norm(model.get_submodule(name)):
        raise Refused(say("its class normalises in a way that is not known"))
    return reads


def is_normalised(flow: Flow, use: Use, name: str, reads: list[tuple[Op | None, Access]]) -> bool:
    """Whether a use is that one of the norm's calls normalises the tensor."""
    if use.op is None or use.call is None or use.in_place:
        return False
    for (op, access), call in zip(reads, flow.calls[name], strict=True):
        if op is use.op or (op is None and use.call is call and use.access == access):
            return True
    return False


def check_finite(norm: nn.Module) -> None:
    """Refuse a batch norm whose map in evaluation mode is not finite."""
    for tensor in scale_and_shift(norm):
        if not bool(torch.isfinite(tensor).all()):
            raise Refused(say("its statistics or parameters are not finite, or a variance is negative"))
