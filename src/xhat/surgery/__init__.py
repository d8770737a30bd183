"""Change a model's batch norms, each change checked: fold, recalibrate, freeze, convert, twins."""

from xhat.surgery.result import Change, Refusal, Surgery

__all__ = ["Change", "Refusal", "Surgery"]
