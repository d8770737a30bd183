"""Momentum has the reversed convention.

Looked for: `momentum` of 0.9 or more. In PyTorch the running statistics become (1 − momentum) · old +
momentum · new, and the default is 0.1. TensorFlow, Keras and JAX use the other convention: their 0.99 is 0.01
here.

Why it harms: with 0.99 the running statistics are those of the very last training batch. Evaluation then
depends on which samples that batch happened to hold, and validation jumps from one epoch to the next.
`momentum=None`, an average over all batches, is fine.

Source: Ioffe and Szegedy 2015, sec. 3.1, average over many batches for inference; pytorch issue 15298 and
torchvision issue 8250 are about the two conventions.

Remedy: write 1 − momentum where the layer is made, then train on or recalibrate the statistics:

    nn.BatchNorm2d(64, momentum=0.01)   # Keras: momentum=0.99
    xhat.recalibrate_(model, batches)

Repair: `xhat.repair` sets `momentum` to 1 − momentum (0.1 where that is 0). The value is not part of a
`state_dict`: the code has to change too. Statistics stay as the last batch left them; recalibrate them.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, Treatment, found
from xhat.lang import say
from xhat.norms import batch_norms
from xhat.surgery.result import Change, Surgery

REVERSED = 0.9  # from here on the last batch has nine times the weight of all those before it


def check(case: Case) -> Iterator[Finding]:
    """Find norms whose momentum is 0.9 or more."""
    for name, module in case.norms.items():
        momentum = module.momentum
        if momentum is None or momentum < REVERSED or module.running_mean is None:
            continue
        yield found(
            "BN106",
            name,
            say(
                "momentum={momentum:g}: the last batch makes up {share:.0%} of the running statistics",
                momentum=momentum,
                share=momentum,
            ),
            evidence={"momentum": momentum},
            remedy=say(
                "Write momentum={right:g}: PyTorch's momentum is the weight of the new batch, Keras's that of "
                "the old ones. Then train on, or recalibrate with xhat.recalibrate_(model, batches).",
                right=right(momentum),
            ),
            repairable=True,
        )


def right(momentum: float) -> float:
    """Return the same momentum in PyTorch's convention; the default where that would be none at all."""
    return round(1 - momentum, 12) or 0.1


def repair(given: Treatment) -> Surgery:
    """Set momentum to its complement."""
    norms = batch_norms(given.model)
    changes = []
    for finding in given.findings:
        norm = norms[finding.module]
        assert norm.momentum is not None
        old, norm.momentum = norm.momentum, right(norm.momentum)
        changes.append(
            Change(finding.module, say("momentum {old:g} is now {new:g}", old=old, new=norm.momentum))
        )
    return Surgery(given.model, tuple(changes), (), None)


RULE = Rule("BN106", "momentum-reversed", check, repair=repair, repairs="structure", keeps_outputs=True)
