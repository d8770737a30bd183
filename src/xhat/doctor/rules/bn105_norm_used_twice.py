"""Batch norm is called more than once in a forward pass.

Looked for: one norm that a single forward pass in training mode calls two times or more. It is a warning
where its inputs come from different layers, info where all come from the same layer, called as often, as in
siamese networks, heads that are shared over scales, and recurrent networks.

Why it harms: in training each call normalises with its own input's statistics, but there is one running mean
and one running variance, which take in the calls in turn and the last one most. Where the inputs'
distributions differ, evaluation mode normalises none of them rightly. The statistics also move faster: k
calls a step make of momentum m about k · m.

Source: torch's update rule; Cooijmans et al. 2017, arXiv 1603.09025, sec. 3, keep statistics for each time
step for this reason.

Remedy: a norm of its own for each place; weights of the layers before may still be shared. Where all inputs
are alike, put them through in one call:

    a, b = net(torch.cat([a, b])).chunk(2)

Repair: none; the code has to change.
"""

from collections.abc import Iterator

from xhat.dataflow import Source
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._flows import calls_of, training_flow, words_of
from xhat.lang import listed, say

SHOWN = 5  # names in the message


def check(case: Case) -> Iterator[Finding]:
    """Find norms that one forward pass calls several times."""
    flow = training_flow(case)
    if flow is None:
        return
    for name in case.norms:
        calls = calls_of(flow, name)
        if len(calls) < 2:
            continue
        sources = {_place(source): words_of(source) for source in map(flow.source, calls)}
        mixed = len(sources) > 1
        yield found(
            "BN105",
            name,
            say(
                "called {count} times in one forward pass, on the outputs of {sources}",
                count=len(calls),
                sources=listed(list(sources.values())[:SHOWN], ", "),
            ),
            evidence={"calls": len(calls), "sources": list(sources.values())},
            remedy=say("Give each place a norm of its own: running statistics of several places fit none.")
            if mixed
            else say(
                "Where the inputs are alike, nothing is wrong; putting them through in one call is exact."
            ),
            severity=Severity.warning if mixed else Severity.info,
        )


def _place(source: Source) -> tuple[str, str, str]:
    """What tells two sources apart: the layer, or the operation and the module that does it."""
    return source.kind, source.name, source.call.module if source.call else ""


RULE = Rule("BN105", "norm-used-twice", check, needs=frozenset({"flow"}))
