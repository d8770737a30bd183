"""The claims of the notes, one file each. To add one, write its file and name it here."""

from xhat.study.claim import Claim
from xhat.study.claims import (
    deep_saturating,
    diverging_distributions,
    faster,
    init_insensitive,
    larger_lr,
    smoother_loss,
    stable_training,
)

CLAIMS: dict[str, Claim] = {
    claim.text.id: claim
    for claim in (
        smoother_loss.CLAIM,
        larger_lr.CLAIM,
        stable_training.CLAIM,
        faster.CLAIM,
        deep_saturating.CLAIM,
        init_insensitive.CLAIM,
        diverging_distributions.CLAIM,
    )
}
