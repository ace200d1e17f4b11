"""Types that several packages of `compress` share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Progress = Callable[[float, str], None]  # share done 0..1, what is happening
Loss = Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]
