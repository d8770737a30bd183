"""The claims of the notes, one file each. To add one, write its file and name it here."""

from xhat.study.claim import Claim
from xhat.study.claims import (
    decoupling,
    deep_saturating,
    diverging_distributions,
    easier_search,
    faster,
    gamma_beta_needed,
    init_insensitive,
    larger_lr,
    limits_batch,
    limits_depth,
    limits_noise,
    limits_norms,
    no_bias,
    regularises,
    scale_insensitive,
    smoother_loss,
    stable_training,
    where_to_normalise,
)

CLAIMS: dict[str, Claim] = {
    claim.text.id: claim
    for claim in (
        smoother_loss.CLAIM,
        larger_lr.CLAIM,
        stable_training.CLAIM,
        faster.CLAIM,
        easier_search.CLAIM,
        no_bias.CLAIM,
        deep_saturating.CLAIM,
        gamma_beta_needed.CLAIM,
        init_insensitive.CLAIM,
        scale_insensitive.CLAIM,
        diverging_distributions.CLAIM,
        decoupling.CLAIM,
        regularises.CLAIM,
        where_to_normalise.CLAIM,
        limits_batch.CLAIM,
        limits_depth.CLAIM,
        limits_norms.CLAIM,
        limits_noise.CLAIM,
    )
}
