"""Two blocks that papers propose against attacks, to be put at the coarsest level of a U-Net."""

import torch
from torch import Tensor, nn


class NonLocalContext(nn.Module):
    """x + attention over all positions, times a gate per channel from the global mean.

    After the non-local context encoder of He et al. 2019, AAAI, arXiv 1904.12181, of which only the abstract was read:
    embedded-Gaussian attention (Wang et al. 2018, arXiv 1711.07971) and a sigmoid gate, on one level. It begins as
    half the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv3d(channels, channels // 2, 1) for _ in range(3))
        self.out = nn.Conv3d(channels // 2, channels, 1)
        self.gate = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one(x).flatten(2) for one in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(-1)
        context = self.out((value @ attention.transpose(1, 2)).reshape(x.shape[0], -1, *x.shape[2:]))
        gate = self.gate(x.flatten(2).mean(-1)).sigmoid()
        return (x + context) * gate.reshape(*gate.shape, *(1 for _ in x.shape[2:]))


class ManifoldMapping(nn.Module):
    """The features beside exp(-beta |W (f - c)|²) for learnt centres c, brought back to as many channels.

    After Taghanaki et al. 2019, CVPR, arXiv 1903.01015, of which only the abstract was read: its kernel's exact form,
    beta and centres are ours.
    """

    def __init__(self, channels: int, centres: int = 16):
        super().__init__()
        self.project = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.centres = nn.Parameter(torch.randn(centres, channels // 2) * 0.5)
        self.log_beta = nn.Parameter(torch.full((centres,), -3.0))
        self.join = nn.Conv3d(channels + centres, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.project(x).flatten(2)  # b d n
        squared = (near.unsqueeze(1) - self.centres[None, :, :, None]).square().sum(2)  # b centres n
        alike = torch.exp(-self.log_beta.exp()[None, :, None] * squared)
        return self.join(torch.cat([x, alike.reshape(x.shape[0], -1, *x.shape[2:])], 1))
