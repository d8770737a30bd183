"""Batch norm makes the model's output.

Looked for: a norm whose output is the model's, with nothing behind it. It is a warning where the output are
class scores: the batch has a target of class numbers, one for each place of an output (N, K, …), and these
fill it, that is, K is at most twice the largest class number plus 2. Else it is info: embeddings, as in
metric learning and self-supervised learning, and generators have such norms on purpose.

Why it harms: class scores are normalised by class over the batch. In training each score depends on which other
samples are in the batch, and the mean score of every class is held at β whatever the batch holds; scores can
spread only by γ, so the loss stays high until γ has grown. Evaluation mode then is another function than the
one trained.

Source: Ioffe and Szegedy 2015, sec. 3.2, place BN before a nonlinearity, not on the output. Chen and He 2021,
arXiv 2011.10566, sec. 4.4, normalise embeddings on purpose.

Remedy: end the network with a linear or convolution layer with a bias:

    nn.Linear(256, 10)

Repair: none; the code has to change. A norm that stays can be folded for evaluation with `xhat.fold`.
"""

from collections.abc import Iterator

from xhat.batches import target_of
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._flows import calls_of, class_ids, flow_of
from xhat.lang import say

FILLS = 2  # the width may be this many times the classes seen


def check(case: Case) -> Iterator[Finding]:
    """Find norms that make the model's output."""
    flow = flow_of(case, "eval")
    if flow is None:
        return
    for name in case.norms:
        outputs = [use for call in calls_of(flow, name) for use in flow.uses(call) if use.kind == "output"]
        if not outputs or outputs[0].access is None:
            continue
        shape = outputs[0].access.size
        largest = class_ids(target_of(case.batch), shape)
        scores = largest is not None and shape[1] <= FILLS * (largest + 1)
        yield found(
            "BN103",
            name,
            say("the scores of {width} classes come straight from this norm", width=shape[1])
            if scores
            else say(
                "the model's output, of shape {shape}, comes straight from this norm", shape=str(tuple(shape))
            ),
            evidence={"shape": list(shape), "largest_class": largest},
            remedy=say(
                "End the network with a linear or convolution layer with a bias, without a norm behind it."
            )
            if scores
            else say(
                "Nothing is wrong with embeddings; class scores should come from a layer without a norm."
            ),
            severity=Severity.warning if scores else Severity.info,
        )


RULE = Rule("BN103", "norm-on-logits", check, needs=frozenset({"flow"}))
