"""Good in training, bad in evaluation, for `xhat doctor sick_net:model --data sick_net:batches`."""

import torch
from my_net import data
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


def model() -> nn.Module:
    """Train a small network on digits for three epochs, with statistics that hardly follow."""
    torch.manual_seed(0)

    def block(before: int, after: int) -> nn.Sequential:
        norm = nn.BatchNorm2d(
            after, momentum=0.001
        )  # written for a library where 0.999 is the share of the old
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), norm, nn.ReLU())

    net = nn.Sequential(
        *(block(1, 16), block(16, 32), nn.MaxPool2d(2), block(32, 32)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for x, y in batches():
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()
    return net


def batches() -> DataLoader:
    """Return the training set of `my_net` in mixed batches."""
    train, _ = data()
    return DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
