"""Batch norms in front of a convolution or linear layer are folded into it where that is exact."""

import pytest
from torch import nn

from tests.surgery.folding import C1, C2, C3, Case, SamePadding, chain, linked, run_case
from tests.surgery.nets import FrozenBatchNorm2d
from tests.surgery.users import BatchNormAct

pytestmark = pytest.mark.usefixtures("quick")


FRONT: dict[str, Case] = {
    "linear": Case(chain(nn.BatchNorm1d(4), nn.Linear(4, 6)), (3, 4)),
    "linear-no-bias": Case(chain(nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)), (3, 4)),
    "conv1d": Case(chain(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3)), C1),
    "conv2d": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride=2)), C2),
    "conv3d": Case(chain(nn.BatchNorm3d(4), nn.Conv3d(4, 6, 2, bias=False)), C3),
    "grouped": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), C2),
    "depthwise": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4)), C2),
    "reflect": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")), C2),
    "replicate": Case(
        chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="same", padding_mode="replicate")), C2
    ),
    "circular": Case(
        chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular")), C2
    ),
    "circular-grouped": Case(
        chain(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", groups=2)), C1
    ),
    "pad-module": Case(
        chain(nn.BatchNorm2d(4), nn.ReplicationPad2d(2), nn.ReflectionPad2d(1), nn.Conv2d(4, 6, 3)), C2
    ),
    "transposed-of-one": Case(chain(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2)), C2),
    "flatten": Case(chain(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(90, 2))),
    "linear-nd": Case(
        linked(
            lambda n, x: n.fc(n.bn(x).permute(0, 2, 3, 1)),
            bn=nn.BatchNorm2d(3),
            fc=nn.Linear(3, 2, bias=False),
        )
    ),
    "frozen-lookalike": Case(chain(FrozenBatchNorm2d(3), nn.Conv2d(3, 4, 3))),
    "pixel-unshuffle": Case(
        chain(nn.BatchNorm2d(3), nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)), (2, 3, 4, 6)
    ),
    "two-layers": Case(
        linked(
            lambda n, x: (n.a(n.bn(x)), n.b(n.bn(x)[:, :, 1:])),
            bn=nn.BatchNorm2d(3),
            a=nn.Conv2d(3, 2, 3),
            b=nn.Conv2d(3, 2, 1),
        )
    ),
    "both-sides": Case(
        chain(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 2, 1),
        )
    ),
    "two-in-a-row": Case(chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))),
    "three-in-a-row": Case(
        chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    ),
    "zeros": Case(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        refused={"0": "its input comes from the model's input"},
    ),
    "same": Case(chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same")), refused={"0": "input"}),
    "transposed": Case(
        chain(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2, stride=2)), refused={"0": "input"}
    ),
    "pads-in-forward": Case(chain(nn.BatchNorm2d(3), SamePadding(3, 4, 3)), refused={"0": "input"}),
    "zeros-in-between": Case(
        chain(nn.BatchNorm2d(3), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), refused={"0": "input"}
    ),
    "activation-in-between": Case(
        chain(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), (3, 4), {"0": "input"}
    ),
    "subclass": Case(chain(BatchNormAct(3), nn.Conv2d(3, 4, 3)), refused={"0": "input"}),
    "layer-with-other-inputs": Case(
        linked(lambda n, x: n.fc(n.bn(x)) + n.fc(x), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "also-read": Case(
        linked(lambda n, x: (lambda y: n.fc(y) + y)(n.bn(x)), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "input-overwritten-later": Case(
        linked(lambda n, x: n.fc((n.bn(x), x.mul_(2))[0]), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "input-zeroed-later": Case(
        linked(lambda n, x: n.fc((n.bn(x), x.zero_())[0]), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
}


@pytest.mark.parametrize("case", FRONT.values(), ids=FRONT)
def test_in_front(case: Case) -> None:
    run_case(case)
