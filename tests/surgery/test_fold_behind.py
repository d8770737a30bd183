"""Batch norms behind a convolution or linear layer are folded into it."""

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from tests.surgery.folding import C1, C2, C3, Case, Functional, SamePadding, chain, linked, run_case
from tests.surgery.nets import FrozenBatchNorm2d, Net
from tests.surgery.users import BatchNormAct
from xhat import freeze_

pytestmark = pytest.mark.usefixtures("quick")


class Detectron(FrozenBatchNorm2d):
    """Constant statistics, by torch's function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


Detectron.__name__ = "FrozenBatchNorm2d"


BEHIND: dict[str, Case] = {
    "conv1d": Case(chain(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), C1),
    "conv2d": Case(chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), C2),
    "conv3d": Case(chain(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), C3),
    "transposed1d": Case(chain(nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6)), C1),
    "transposed2d": Case(chain(nn.ConvTranspose2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), C2),
    "transposed3d": Case(chain(nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d(6)), C3),
    "transposed1d-grouped": Case(chain(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), C1),
    "transposed2d-grouped": Case(
        chain(nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1, groups=2), nn.BatchNorm2d(8)), C2
    ),
    "transposed3d-depthwise": Case(chain(nn.ConvTranspose3d(4, 4, 2, groups=4), nn.BatchNorm3d(4)), C3),
    "grouped": Case(chain(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), C2),
    "depthwise": Case(chain(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), C2),
    "dilated": Case(chain(nn.Conv2d(4, 6, 2, dilation=2, stride=2), nn.BatchNorm2d(6)), C2),
    "same": Case(chain(nn.Conv2d(4, 6, (3, 5), padding="same"), nn.BatchNorm2d(6)), C2),
    "circular": Case(chain(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(6)), C2),
    "no-conv-bias": Case(chain(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), C2),
    "linear": Case(chain(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4)),
    "linear-no-bias": Case(chain(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4)),
    "linear-3d": Case(
        linked(
            lambda n, x: n.bn(n.fc(x).transpose(1, 2)).transpose(1, 2),
            fc=nn.Linear(4, 6),
            bn=nn.BatchNorm1d(6),
        ),
        (2, 5, 4),
    ),
    "view-of-what-it-lays-out": Case(
        linked(
            lambda n, x: n.bn(n.fc(x).transpose(1, 2)).view(2, -1), fc=nn.Linear(4, 6), bn=nn.BatchNorm1d(6)
        ),
        (2, 5, 4),
    ),
    "expanded-and-changed-in-place": Case(
        linked(
            lambda n, x: n.bn(n.conv(x).expand(-1, -1, 4, 4)).relu_(),
            conv=nn.Conv2d(3, 4, (5, 6)),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "linear-4d-flattened": Case(
        linked(
            lambda n, x: n.bn(n.fc(x).flatten(0, 2)).view(*x.shape[:-1], 6),
            fc=nn.Linear(4, 6),
            bn=nn.BatchNorm1d(6),
        ),
        (2, 3, 5, 4),
    ),
    "linear-as-channels-last": Case(
        linked(
            lambda n, x: n.bn(n.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
            fc=nn.Linear(3, 6),
            bn=nn.BatchNorm2d(6),
        )
    ),
    "linear-3d-of-another-axis": Case(
        chain(nn.Linear(4, 6), nn.BatchNorm1d(5)), (2, 5, 4), {"1": "another axis"}
    ),
    "linear-3d-of-another-axis-equally-long": Case(
        chain(nn.Linear(4, 6), nn.BatchNorm1d(6)), (2, 6, 4), {"1": "another axis"}
    ),
    "not-affine": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))),
    "linear-not-affine": Case(chain(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)), (3, 4)),
    "norm-without-bias": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, bias=False))),
    "sync": Case(chain(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))),
    "large-eps": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.3))),
    "momentum-none": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))),
    "activation-modules": Case(chain(nn.Conv2d(3, 4, 3), BatchNormAct(4), nn.Conv2d(4, 2, 1))),
    "activation-functional": Case(chain(nn.Conv2d(3, 4, 3), Functional(4), nn.Conv2d(4, 2, 1))),
    "frozen-lookalike": Case(chain(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4))),
    "frozen-lookalike-of-a-function": Case(chain(nn.Conv2d(3, 4, 3), Detectron(4))),
    "frozen": Case(lambda: freeze_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train())),
    "frozen-affine": Case(
        lambda: freeze_(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct(4)).train(), affine=True)
    ),
    "lazy": Case(
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    ),
    "same-padding": Case(chain(SamePadding(3, 4, 3), nn.BatchNorm2d(4))),
    "two-in-a-row": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))),
    "three-in-a-row": Case(
        chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    ),
    "chain": Case(
        chain(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()),
            *(nn.Linear(120, 5), nn.BatchNorm1d(5)),
        )
    ),
    "changed-in-place-behind": Case(
        linked(lambda n, x: n.bn(n.conv(x)).relu_().add_(1), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    ),
    "siamese": Case(
        linked(
            lambda n, x: n.bn(n.conv(x)) - n.bn(n.conv(x.flip(3))),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "pixel-shuffle-of-other-axis": Case(
        linked(
            lambda n, x: n.bn(n.conv(x).unflatten(1, (4, 2)).flatten(2, 3)),
            conv=nn.Conv2d(3, 8, 3),
            bn=nn.BatchNorm2d(4),
        ),
        refused={"bn": "another axis"},
    ),
    "channels-reordered": Case(
        linked(
            lambda n, x: n.bn(F.channel_shuffle(n.conv(x), 2).flip(1)),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "some-of-the-channels": Case(
        linked(lambda n, x: n.bn(n.conv(x)[:, 1:5:2]), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(2))
    ),
    "channels-repeated": Case(
        linked(
            lambda n, x: n.bn(n.conv(x).repeat(1, 2, 1, 1)), conv=nn.Conv2d(3, 2, 3), bn=nn.BatchNorm2d(4)
        ),
        refused={"bn": "the same output of conv"},
    ),
    "padded-in-between": Case(
        linked(
            lambda n, x: n.bn(F.pad(n.conv(x), (1, 1, 1, 1), mode="reflect")),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "one-layer-two-places": Case(
        linked(
            lambda n, x: n.out(n.bn(n.conv(x)).mean((2, 3))) + n.out(x.mean((2, 3)).repeat(1, 2)[:, :4]),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
            out=nn.Linear(4, 2),
        )
    ),
    "nested": Case(
        lambda: nn.Sequential(
            nn.ModuleDict({"a": nn.Conv2d(3, 4, 1)})["a"],
            Net(
                lambda n, x: n.parts[0][1](n.parts[0][0](x)),
                parts=nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])]),
            ),
        )
    ),
    "data-parallel": Case(lambda: nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))),
    "under-two-names": Case(
        lambda: (lambda bn: Net(lambda n, x: n.b(n.conv(x)), conv=nn.Conv2d(3, 4, 3), a=bn, b=bn))(
            nn.BatchNorm2d(4)
        )
    ),
    "weights-that-want-no-gradient": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).requires_grad_(False)
    ),
}


@pytest.mark.parametrize("case", BEHIND.values(), ids=BEHIND)
def test_behind(case: Case) -> None:
    run_case(case)
