"""Norms that are meant to be frozen have statistics that move.

Looked for, in the steps that `xhat.watch` saw: running statistics that changed although γ and β have
`requires_grad=False` (of a norm without them: although nothing in the module that holds it is trained) while other
parameters of the model are trained; or although the norm was in evaluation mode when the block began, within a model
in training mode, and came back by `.train()`.

Why it harms: `requires_grad=False` stops the optimizer, not the running statistics: those are no parameters. A
pretrained network that was to stay as it is then drifts to the new data's statistics, and normalises by the batch in
training. `.eval()` on a part is undone by the next `model.train()`.

Source: pytorch issues 86590 and 66073.

Remedy: freeze in a way that `.train()` does not undo:

    xhat.freeze_(model.backbone, statistics=True, affine=True)

Repair: none; the training code has to change.
"""

from collections.abc import Iterator

from torch import nn

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.doctor.watch import WatchedNorm
from xhat.lang import Phrase, say


def check(case: Case) -> Iterator[Finding]:
    """Find norms that nothing trains and whose statistics moved."""
    watched = case.watched
    assert watched is not None
    if not any(parameter.requires_grad for parameter in case.model.parameters()):
        return
    for name, norm in watched.norms.items():
        why = _meant_to_be_frozen(case.model, name, norm) if norm.statistics_moved and norm.passes else None
        if why is None:
            continue
        updates = sum(each.updated for each in norm.passes)
        yield found(
            "BN401",
            name,
            say(
                "{why}, but its running statistics changed in {count} forward passes", why=why, count=updates
            ),
            evidence={"updates": updates, "steps": watched.steps},
            remedy=say("Freeze it with xhat.freeze_, which .train() does not undo, before training."),
        )


def _meant_to_be_frozen(model: nn.Module, name: str, norm: WatchedNorm) -> Phrase | None:
    if norm.frozen_at_start:
        return say("it was in evaluation mode and came back by .train()")
    if norm.trains_affine:
        return None
    if norm.has_affine:
        return say("γ and β have requires_grad=False")
    holder = model.get_submodule(name.rpartition(".")[0])
    parameters = list(holder.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return say("nothing in the module that holds it is trained")
    return None


RULE = Rule("BN401", "frozen-but-drifting", check, needs=frozenset({"watched"}))
