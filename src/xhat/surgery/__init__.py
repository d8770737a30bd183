"""Change a model's batch norms, each change checked: fold, recalibrate, freeze, convert, twins."""

from xhat.surgery.add_batch_norm import add_batch_norm
from xhat.surgery.convert import convert_group_norm
from xhat.surgery.drop_bias import drop_bias
from xhat.surgery.fold import fold
from xhat.surgery.freeze import freeze_, is_frozen, unfreeze_
from xhat.surgery.recalibrate import recalibrate_
from xhat.surgery.recalibration import Moved, Recalibration
from xhat.surgery.remove_batch_norm import remove_batch_norm
from xhat.surgery.result import Change, Refusal, Surgery
from xhat.surgery.update_once import update_once

__all__ = [
    "Change",
    "Moved",
    "Recalibration",
    "Refusal",
    "Surgery",
    "add_batch_norm",
    "convert_group_norm",
    "drop_bias",
    "fold",
    "freeze_",
    "is_frozen",
    "recalibrate_",
    "remove_batch_norm",
    "unfreeze_",
    "update_once",
]
