"""Batches have too few values a channel.

Looked for: norms that are trained with batch statistics, and what one of the batches gives each of their channels.
A batch counts for σ²/Var(batch mean) independent values: between its number of samples and, were all pixels
independent, its number of values. Fewer than 16 in the median batch is a warning. A single value is an error, in any
batch, such as the last one of a loader that does not divide. Other batches with fewer than 16 values are told as
information.

Why it harms: with 16 independent values the batch's mean is off by a quarter of σ (1/√16), its σ by 18% (1/√30). Both
change from batch to batch, which is noise in every activation, and evaluation, with statistics of many batches,
computes something else. Of a single value the mean is the value itself and the output β; torch raises.

Source: Wu and He 2018, arXiv 1803.08494, figure 1: ImageNet error with 2 images a batch is 10 points higher; Ioffe
2017, arXiv 1702.03275, sec. 1.

Remedy: larger batches; statistics over all devices; a normalisation without batch; or frozen statistics. A last batch
that is too small is best left out:

    DataLoader(data, batch_size=64, drop_last=True)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    xhat.convert_group_norm(model)
    xhat.freeze_(model)

Repair: none; the batches have to change.
"""

from collections.abc import Iterator
from statistics import median

from torch import nn

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._few import FEW, is_few
from xhat.lang import say

SHOWN = 3


def check(case: Case) -> Iterator[Finding]:
    """Count the values that each norm's channels get from a batch."""
    observed = case.observed
    assert observed is not None
    # A synchronised norm sees what all ranks have; their batches are as large, as a sampler makes them.
    ranks = {
        name: case.world_size if isinstance(norm, nn.SyncBatchNorm) else 1
        for name, norm in case.norms.items()
    }
    counts = {
        name: tuple(value * ranks[name] for value in values)
        for name, values in observed.values.items()
        if name not in observed.frozen and any(values)
    }
    single = [place for place in range(len(observed.samples)) if any(v[place] == 1 for v in counts.values())]
    yield from _single(observed, counts, single)
    worth = {
        name: min(observed.seen[name].worth() * ranks[name] if name in observed.seen else most, most)
        for name, values in counts.items()
        if (most := float(median([count for count in values if count]))) > 1
    }
    few = {name: value for name, value in worth.items() if is_few(value)}
    if few:
        worst = min(few, key=lambda name: few[name])
        yield found(
            "BN303",
            "" if len(few) > 1 else worst,
            say(
                "in {count} of {all} norms a batch is worth fewer than {least} independent values a channel; fewest in "
                "{worst}: {worth:.3g} of {values} values, from {samples} samples",
                count=len(few),
                all=len(counts),
                least=FEW,
                worst=worst,
                worth=few[worst],
                values=int(median([count for count in counts[worst] if count])),
                samples=int(median(observed.samples)),
            ),
            evidence={"norms": list(few), "worth": list(few.values()), "samples": list(observed.samples)},
            remedy=say(
                "Train with larger batches, or: torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) over several "
                "devices, xhat.convert_group_norm, or xhat.freeze_ when fine-tuning."
            ),
            severity=Severity.warning,
        )
    else:
        yield from _ragged(observed, counts, single)


def _single(observed: Observed, counts: dict[str, tuple[int, ...]], places: list[int]) -> Iterator[Finding]:
    """Batches that training raises at."""
    if not places:
        return
    norms = [name for name, values in counts.items() if values[places[0]] == 1]
    yield found(
        "BN303",
        norms[0] if len(norms) == 1 else "",
        say(
            "batch {place} of {batches} ({samples} samples) has a single value a channel in {count} norms, {first} "
            "first: in training mode torch raises",
            place=places[0] + 1,
            batches=len(observed.samples),
            samples=observed.samples[places[0]],
            count=len(norms),
            first=norms[0],
        ),
        evidence={"batches": places, "norms": norms, "samples": list(observed.samples)},
        remedy=say(
            "Leave a last batch that is too small out: DataLoader(…, drop_last=True); or use larger batches."
        ),
        severity=Severity.error,
    )


def _ragged(observed: Observed, counts: dict[str, tuple[int, ...]], single: list[int]) -> Iterator[Finding]:
    """Single batches that are small, while most are not."""
    small = [
        place
        for place in range(len(observed.samples))
        if any(values[place] > 1 and is_few(values[place]) for values in counts.values())
        and place not in single
    ]
    if small:
        fewest = min(values[place] for values in counts.values() for place in small if values[place] > 1)
        yield found(
            "BN303",
            "",
            say(
                "{count} of {batches} batches are small: down to {fewest} values a channel",
                count=len(small),
                batches=len(observed.samples),
                fewest=fewest,
            ),
            evidence={"batches": small, "fewest": fewest, "samples": list(observed.samples)},
            remedy=say("Leave a last batch that is too small out: DataLoader(…, drop_last=True)."),
            severity=Severity.info,
        )


RULE = Rule("BN303", "too-few-values", check, needs=frozenset({"batches"}), explained_by=("BN502",))
