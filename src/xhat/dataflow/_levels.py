"""How deep each batch norm lies among the batch norms of a run."""

from collections.abc import Collection, Sequence

from xhat.dataflow.parts import Call, Op


def norm_levels(ops: Sequence[Op], norms: Collection[str], parameters: Collection[int]) -> dict[str, int]:
    """Return how many batch norms lie before each, itself included, on the longest way to it.

    Args:
        ops: All operations of the run.
        norms: Full names of batch norms.
        parameters: Values of parameters and buffers, through which nothing flows.
    """
    level: dict[int, int] = {}
    found: dict[str, int] = {}
    entered: dict[int, int] = {}  # calls of batch norms, by identity
    for op in ops:
        norm = _norm_call(op.call, norms)
        if norm is not None and id(norm) not in entered:
            before = max((level.get(access.value, 0) for access in norm.inputs), default=0)
            entered[id(norm)] = before + 1
            found[norm.module] = max(found.get(norm.module, 0), before + 1)
        height = max((level.get(access.value, 0) for access in op.reads), default=0)
        if norm is not None:
            height = max(height, entered[id(norm)])
        for access in op.made:
            if access.value not in parameters:
                level[access.value] = max(height, level.get(access.value, 0))
    return found


def _norm_call(call: Call | None, norms: Collection[str]) -> Call | None:
    while call is not None and call.module not in norms:
        call = call.parent
    return call
