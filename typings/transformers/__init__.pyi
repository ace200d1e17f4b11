"""What pyright reads for transformers, whose own page leads it through every architecture: 3000 files for one name."""

from typing import Any

from torch import nn

class PreTrainedModel(nn.Module):
    config: Any
    def __getattr__(self, name: str) -> Any: ...

def __getattr__(name: str) -> Any: ...  # all other names are taken as they come
