"""One table: how severe each rule's findings are, and what that means."""

from collections.abc import Mapping

from xhat.doctor.finding import Severity

info, warning, error = Severity

DEFINITIONS: Mapping[Severity, str] = {
    info: "Worth knowing. The model is right as it is; it could be smaller, or the point matters later.",
    warning: "Likely harmful: it changes what the model says, or how it trains, by more than chance explains.",
    error: "Certainly wrong: training raises, or outputs in evaluation mode are broken or not what was trained.",
}

# A code with two severities: the rule's page says from where on the worse one holds.
SEVERITIES: Mapping[str, Mapping[Severity, str]] = {
    "BN101": {info: "Parameters without effect; results are right."},
    "BN102": {warning: "Running statistics hold for inputs with dropout, evaluation has none."},
    "BN103": {
        info: "Outputs that are no class scores, such as embeddings, are often normalised on purpose.",
        warning: "Class scores get a fixed scale, which limits how sure the model can be.",
    },
    "BN104": {warning: "The second norm undoes the first one's scale and shift."},
    "BN105": {
        info: "One layer's outputs for several inputs share their statistics, as in siamese networks.",
        warning: "Running statistics mix those of different places and fit none.",
    },
    "BN106": {warning: "Running statistics are those of the last batch or two, so evaluation is noisy."},
    "BN107": {
        info: "eps changes the scale of most channels, which training has allowed for; or float16 loses eps.",
        warning: "eps, not the variance, sets the scale of most channels: the layer hardly normalises.",
    },
    "BN108": {info: "Decay pulls scales and shifts to zero; whether that helps depends on the model."},
    "BN201": {error: "Outputs in evaluation mode are NaN or do not depend on the input."},
    "BN202": {error: "No variance is negative; evaluation mode gives NaN or a wrong scale."},
    "BN203": {
        warning: "No norm of the model was ever trained: it is new, or its weights were not loaded.",
        error: "Evaluation mode does not normalise at all.",
    },
    "BN204": {warning: "Updates smaller than a rounding step are lost, and statistics stay behind."},
    "BN205": {
        info: "Channels without effect: trained models have some; they can be pruned.",
        warning: "Most of a layer's channels say nothing.",
    },
    "BN206": {
        info: "The input is so large that float16 would overflow before the norm.",
        warning: "Differences that training never saw are enlarged until they rule the output.",
    },
    "BN301": {warning: "Evaluation computes something else than training, whatever the statistics are."},
    "BN302": {
        warning: "Evaluation normalises with statistics of other data or of earlier weights.",
        error: "Wrong statistics change outputs as much as another sample would, or cost 20 points of accuracy.",
    },
    "BN303": {
        info: "A single small batch, such as the last one, is noisier than the others.",
        warning: "Means and variances are so noisy that evaluation computes something else than training.",
        error: "Of a single value there is no variance: torch raises in training mode.",
    },
    "BN304": {warning: "Training normalises away what makes its batches differ; evaluation cannot."},
    "BN305": {
        warning: "Outputs depend a little on the other samples of a batch.",
        error: "The same input gets another answer in another batch.",
    },
    "BN401": {warning: "What was to stay as it was pretrained moves to the new data's statistics."},
    "BN402": {
        info: "Statistics are those of all inputs, also of those given for another purpose.",
        warning: "Each batch counts twice or more, so the running average is shorter than it says.",
    },
    "BN403": {
        info: "Batch norm's batch is the microbatch, which is large enough.",
        warning: "Means and variances of microbatches are noisy, however many are accumulated.",
    },
    "BN501": {
        info: "Ranks differ by their last batch, as between two steps of DistributedDataParallel.",
        warning: "Ranks evaluate, and would save, different models.",
        error: "Statistics of the ranks have little to do with each other.",
    },
    "BN502": {warning: "The batch that counts is one rank's, and it is small."},
}


def severities_of(code: str) -> tuple[Severity, ...]:
    """Return the severities that findings of a code may have, the mildest first."""
    return tuple(SEVERITIES[code])
