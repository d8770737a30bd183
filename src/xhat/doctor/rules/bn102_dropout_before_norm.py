"""Dropout stands directly before a batch norm.

Looked for: a norm whose input, in training mode, comes straight from dropout or from another operation that
multiplies by or adds random numbers. Dropout with p = 0 does not count.

Why it harms: dropout changes the variance in training and not in evaluation. With the share p dropped and the
rest enlarged by 1 / (1 − p), a channel of mean μ and variance σ² has in training the variance σ² / (1 − p) +
μ² · p / (1 − p). The running variance keeps that one, and evaluation, where the variance is σ², divides by
too much: normalised values then have at most √(1 − p) of the spread that they had in training, 0.71 at p =
0.5.

Source: Li, Chen, Hu, Yang 2019, “Understanding the disharmony between dropout and batch normalization by
variance shift”, arXiv 1801.05134.

Remedy: put dropout behind the last norm, or at least behind this one:

    nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.3))

Repair: none; the order of layers is the code's.
"""

from collections.abc import Iterator

from torch import nn

from xhat.dataflow import Source
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._flows import calls_of, flow_of, words_of
from xhat.lang import say


def check(case: Case) -> Iterator[Finding]:
    """Find norms that read what is random in training."""
    flow = flow_of(case, "train")
    if flow is None:
        return
    for name in case.norms:
        for call in calls_of(flow, name):
            source = flow.source(call)
            share = _dropped(case, source)
            if not source.random or not call.training or share == 0:
                continue
            shrinks = None if share is None else (1 - share) ** 0.5
            yield found(
                "BN102",
                name,
                say("its input comes from {source}, which is random in training", source=words_of(source))
                if shrinks is None
                else say(
                    "its input comes from {source}, dropout with p={share:g}: in evaluation, normalised values have at "
                    "most {factor:.2f} of the spread that they had in training",
                    source=words_of(source),
                    share=share,
                    factor=shrinks,
                ),
                evidence={"source": words_of(source), "p": share, "spread_left": shrinks},
                remedy=say("Move dropout behind the norm and its activation."),
            )
            break  # one finding a norm


def _dropped(case: Case, source: Source) -> float | None:
    """Return dropout's p; None for what is no dropout module."""
    if source.call is None:
        return None
    module = case.model.get_submodule(source.call.module)
    return float(module.p) if isinstance(module, nn.modules.dropout._DropoutNd) else None


RULE = Rule("BN102", "dropout-before-norm", check, needs=frozenset({"flow"}))
