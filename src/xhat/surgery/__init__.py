"""Change a model's batch norms, each change checked: fold, recalibrate, freeze, convert, twins."""

from xhat.surgery.convert import convert_group_norm
from xhat.surgery.fold import fold
from xhat.surgery.freeze import freeze_, is_frozen, unfreeze_
from xhat.surgery.result import Change, Refusal, Surgery
from xhat.surgery.update_once import update_once

__all__ = [
    "Change",
    "Refusal",
    "Surgery",
    "convert_group_norm",
    "fold",
    "freeze_",
    "is_frozen",
    "unfreeze_",
    "update_once",
]
