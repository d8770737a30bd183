"""Running statistics are kept in half precision.

Looked for: running_mean or running_var in float16 or bfloat16.

Why it harms: an update adds momentum · (new − old). bfloat16 has 8 significant bits, so with momentum 0.01 a
change is lost as soon as the difference is below a fifth to two fifths of the value, and the statistics stop
short of the truth; in float16 a variance above 65504 is inf, one below 6e-8 is 0. A model that only serves,
with statistics cast after training, loses no more than their rounding, but cannot be trained on.

Source: measured with torch 2.13, bfloat16, momentum 0.01, 3,000 steps: a running variance of 6.62 where
float32 gives 8.57. torch.autocast and NVIDIA's apex keep batch norms in float32 for this reason.

Remedy: keep the norms in float32; torch takes half-precision inputs with them:

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.float()

Repair: `xhat.repair` casts these norms to float32, γ and β too, since torch asks for one type in all of them.
Bits that are lost do not come back: recalibrate if the model was trained this way.
"""

from collections.abc import Iterator

import torch

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, Treatment, found
from xhat.lang import listed, say
from xhat.surgery.result import Change, Surgery

HALF = (torch.float16, torch.bfloat16)


def check(case: Case) -> Iterator[Finding]:
    """Find norms with statistics in half precision."""
    for name, module in case.norms.items():
        buffers = (module.running_mean, module.running_var)
        kinds = sorted({_short(held.dtype) for held in buffers if held is not None and held.dtype in HALF})
        if not kinds:
            continue
        yield found(
            "BN204",
            name,
            say(
                "running statistics are kept in {dtype}: small updates are rounded away",
                dtype=listed(kinds, " and "),
            ),
            evidence={"dtype": kinds, "momentum": module.momentum},
            remedy=say(
                "Keep the norm in float32 with module.float(); torch takes half-precision inputs with it."
            ),
            repairable=True,
        )


def repair(given: Treatment) -> Surgery:
    """Cast the norms to float32."""
    for finding in given.findings:
        given.model.get_submodule(finding.module).float()
    changes = tuple(Change(finding.module, say("cast to float32")) for finding in given.findings)
    return Surgery(given.model, changes, (), None)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


RULE = Rule("BN204", "half-precision-buffers", check, repair=repair, keeps_outputs=True)
