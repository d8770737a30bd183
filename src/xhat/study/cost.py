"""Expected seconds of a run on one core: only order and progress hang on it, never a number."""

from xhat.study.spec import LawSpec, Spec, TrainSpec

# Seconds a step and member, measured once at the sizes of ``quick``.
_PER_STEP = {"mlp": 0.0004, "deep-linear": 0.0018, "vgg": 0.014}


def cost(spec: Spec) -> float:
    """Return the expected seconds of a run."""
    if isinstance(spec, LawSpec):
        return 1.0
    return _training(spec)


def _training(spec: TrainSpec) -> float:
    step = _PER_STEP.get(spec.network.name, 0.03) * len(spec.members)
    options = dict(spec.network.options)
    if spec.network.name == "mlp":
        step *= float(options.get("depth", 8)) / 8
    if spec.network.norm != "none":
        step *= 1.5
    evaluations = spec.steps
    if spec.probe:
        evaluations += len(spec.probe.at) * (1 + len(spec.probe.ratios))
    if spec.record:
        evaluations += 2 * len(spec.record.at)
    return 0.2 + step * evaluations
