"""Weight decay acts on γ and β.

Looked for: parameter groups of the optimizer with `weight_decay` above 0 that hold weights or biases of batch
norms.

Why it harms: decay pulls γ to 0, and with it the channel's output; on the weights before a norm, decay
changes no output at all, only the effective learning rate. Whether decay on γ and β helps differs between
models, and torch's default of one group decays both. For small networks with strong decay it makes dead
channels (BN205).

Source: Goyal et al. 2017, arXiv 1706.02677, leave γ and β out, as do He et al. 2019, “Bag of tricks”, arXiv
1812.01187, sec. 3.1; van Laarhoven 2017, arXiv 1706.05350, on decay before a norm.

Remedy: two groups:

    norms = [p for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()]
    held = {id(p) for p in norms}
    others = [p for p in model.parameters() if id(p) not in held]
    groups = [{"params": others}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)

Repair: none; the optimizer is made by the code.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.lang import say

SHOWN = 5  # names in the evidence


def check(case: Case) -> Iterator[Finding]:
    """Find parameter groups that decay the affine parameters of norms."""
    assert case.optimizer is not None
    for place, group in enumerate(case.optimizer.param_groups):
        decay = float(group.get("weight_decay") or 0.0)
        if decay <= 0:
            continue
        held = {id(parameter) for parameter in group["params"]}
        names = [
            name
            for name, module in case.norms.items()
            if any(
                id(parameter) in held for parameter in (module.weight, module.bias) if parameter is not None
            )
        ]
        if not names:
            continue
        yield found(
            "BN108",
            "",
            say(
                "parameter group {group} of the optimizer decays γ or β of {count} of {total} batch norms "
                "(weight_decay={decay:g})",
                group=place,
                count=len(names),
                total=len(case.norms),
                decay=decay,
            ),
            evidence={
                "group": place,
                "weight_decay": decay,
                "batch_norms": len(names),
                "first": names[:SHOWN],
            },
            remedy=say(
                "Put γ and β into a group of their own with weight_decay=0; xhat explain BN108 has the code."
            ),
        )


RULE = Rule("BN108", "weight-decay-on-affine", check, needs=frozenset({"optimizer"}))
