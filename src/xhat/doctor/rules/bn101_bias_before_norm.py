"""Bias before a batch norm has no effect.

Looked for: a convolution or linear layer with a bias, all of whose outputs go to batch norms that normalise
with the batch's statistics in training, channel by channel.

Why it harms: the norm subtracts the mean, and the bias with it; β is the bias that counts. The parameters
cost memory, time and optimizer state, their gradient is rounding noise, and weight decay alone moves them.
Outputs are right.

Source: Ioffe and Szegedy 2015, sec. 3.2: “the bias b can be ignored since its effect will be canceled”.

Remedy: make the layer with `bias=False`:

    nn.Conv2d(64, 128, 3, padding=1, bias=False)

Repair: `xhat.repair(model, diagnosis, *inputs)` removes the bias and moves it into the running mean, so that
outputs stay; so does `xhat.drop_bias(model, *inputs)`. The code that makes the model has to change too.
"""

from collections.abc import Iterator

from torch import nn

from xhat.dataflow import Flow
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, Treatment, found
from xhat.doctor.rules._flows import axis_of, calls_of, keeps_channels, training_flow
from xhat.lang import say
from xhat.surgery.result import Refusal, Surgery


def check(case: Case) -> Iterator[Finding]:
    """Find biases that batch norms cancel."""
    flow = training_flow(case)
    if flow is None:
        return
    for name, module in case.model.named_modules():
        bias = getattr(module, "bias", None)
        if bias is None or not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        norms = _cancelling(case, flow, name, module)
        if not norms:
            continue
        yield found(
            "BN101",
            name,
            say(
                "its bias is cancelled by {norm}: {count} parameters without effect",
                norm=", ".join(norms),
                count=bias.numel(),
            ),
            evidence={"parameters": bias.numel(), "norms": norms},
            remedy=say("Make the layer with bias=False."),
            repairable=True,
        )


def _cancelling(case: Case, flow: Flow, name: str, module: nn.Module) -> list[str]:
    """Return the norms that read the layer's outputs, if they alone do and each cancels the bias."""
    norms: dict[str, None] = {}
    for call in calls_of(flow, name):
        for use in flow.uses(call):
            if use.kind != "module" or use.name not in case.norms or use.call is None:
                return []
            # A norm in evaluation mode subtracts its running mean, whatever the bias is.
            batch = use.call.training or case.norms[use.name].running_mean is None
            # The layer's own output: what made its memory may have had another shape.
            made = call.outputs[0]
            axis = axis_of(module, made)
            if not batch or axis is None or flow.source(use.call).call is not call:
                return []
            if not keeps_channels(flow, made, axis, use):
                return []
            norms[use.name] = None
    return list(norms)


def repair(given: Treatment) -> Surgery:
    """Move the biases into running means."""
    if not given.inputs and not given.kwargs:
        reason = say(
            "the data flow is recorded on inputs: give repair(model, diagnosis, *inputs) the model's own"
        )
        return Surgery(given.model, (), tuple(Refusal(f.module, reason) for f in given.findings), None)
    from xhat.surgery import drop_bias

    return drop_bias(given.model, *given.inputs, kwargs=dict(given.kwargs))


RULE = Rule(
    "BN101",
    "bias-before-norm",
    check,
    needs=frozenset({"flow"}),
    repair=repair,
    repairs="structure",
    keeps_outputs=True,
)
