"""Batch norm follows a batch norm.

Looked for: a norm whose input comes straight from another batch norm, each of its channels from one channel of
that one, where nothing else reads that one's output. Where the axes are transposed between the two, both have a
part.

Why it harms: what the first norm does by channel, γ and β included, the second undoes. The first's parameters
have no effect in training, their gradient is noise, and time is lost. Usually one was left over when blocks
were put together.

Source: a map x → a · x + b with a > 0 does not change what a norm makes of x, but for eps (Ioffe and Szegedy
2015, sec. 3.3).

Remedy: leave one of the two out.

Repair: none; the code has to change.
"""

from collections.abc import Iterator

from xhat.dataflow import Call, Flow, Source
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._flows import calls_of, keeps_channels, training_flow
from xhat.lang import say


def check(case: Case) -> Iterator[Finding]:
    """Find norms that read nothing but another norm's output."""
    flow = training_flow(case)
    if flow is None:
        return
    for name in case.norms:
        for call in calls_of(flow, name):
            source = flow.source(call)
            if source.kind != "module" or source.call is None or source.name not in case.norms:
                continue
            if source.name == name or not _undoes(flow, source, call):
                continue
            yield found(
                "BN104",
                name,
                say("its input comes straight from the batch norm {first}", first=source.name),
                evidence={"first": source.name, "parameters": _parameters(case, source.name)},
                remedy=say("Leave one of the two norms out."),
            )
            break  # one finding a norm


def _undoes(flow: Flow, source: Source, call: Call) -> bool:
    """Whether the second norm alone reads the first one's output, by the first one's channels."""
    assert source.call is not None
    uses = flow.uses(source.call)
    return all(use.call is call for use in uses) and all(
        keeps_channels(flow, source.access, 1, use) for use in uses
    )


def _parameters(case: Case, name: str) -> int:
    return sum(parameter.numel() for parameter in case.norms[name].parameters(recurse=False))


RULE = Rule("BN104", "norm-after-norm", check, needs=frozenset({"flow"}))
