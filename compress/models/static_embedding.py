"""The architecture of the static student, registered with transformers when this module is imported."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from .architectures import STATIC

HASH = 509  # a prime; with at most 2^15 buckets all stays below 2^24, where OpenVINO's float remainder is exact


class StaticConfig(PreTrainedConfig):
    """hidden_size: width of the embeddings. pairs: buckets of the pair embeddings, 0 for none. convolution: tokens that
    a convolution over the embeddings reads, 0 for none. convolution_layers: how many of them, one after another.
    max_pooling: whether the maximum over the tokens is read beside the mean. vector_size: width of the vectors that it
    answers with, 0 for one that answers with labels."""

    model_type = STATIC

    def __init__(
        self,
        vocab_size: int = 1,
        hidden_size: int = 64,
        pairs: int = 0,
        convolution: int = 0,
        convolution_layers: int = 1,
        max_pooling: bool = False,
        max_position_embeddings: int = 512,
        vector_size: int = 0,
        **others,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.pairs = pairs
        self.convolution = convolution
        self.convolution_layers = convolution_layers
        self.max_pooling = max_pooling
        self.max_position_embeddings = max_position_embeddings  # longer texts are truncated, as the teacher's were
        self.vector_size = vector_size
        super().__init__(**others)


class StaticForSequenceClassification(PreTrainedModel):
    """input_ids and attention_mask (rows, length) int64 -> logits (rows, labels).

    A pair's bucket follows from the numbers that its tokens had when it was trained, `numbers` (tokens,) int64, which
    trimming keeps: new numbers would be other buckets.
    """

    config_class = StaticConfig
    base_model_prefix = "static"
    _supports_sdpa = True  # it has no attention, so every kind of it is supported

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pair_embeddings = nn.Embedding(config.pairs, config.hidden_size) if config.pairs else None
        if config.pairs:
            self.register_buffer("numbers", torch.arange(config.vocab_size))
        width, outputs, tokens = config.hidden_size, config.vector_size or config.num_labels or 2, config.convolution
        self.convolution = nn.Conv1d(width, width, tokens, padding=tokens // 2) if tokens else None
        further = range(1, config.convolution_layers) if tokens else ()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in further)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, tokens, padding=tokens // 2) for _ in further)
        self.classifier = nn.Linear(width, outputs)
        self.max_classifier = nn.Linear(width, outputs, bias=False) if config.max_pooling else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.embeddings = value

    def keep_tokens(self, rows: torch.Tensor) -> None:
        """What the model knows of its tokens but for their embeddings, reduced to these (int64)."""
        if self.pair_embeddings is not None:
            self.numbers = self.numbers[rows]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SequenceClassifierOutput:
        real = attention_mask.unsqueeze(-1).to(self.embeddings.weight.dtype)
        words = self._words(input_ids, real)
        pooled = words.sum(1) / real.sum(1)
        if self.pair_embeddings is not None:
            pooled = pooled + (self._pairs(input_ids) * real[:, 1:]).sum(1) / real.sum(1)
        logits = self.classifier(pooled)
        if self.max_classifier is not None:
            logits = logits + self.max_classifier(_largest(words, real))
        return SequenceClassifierOutput(logits=logits)

    def _words(self, input_ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Embeddings of the tokens, with what the convolutions add, 0 where they are padding, (rows, length, width)."""
        words = self.embeddings(input_ids) * real
        if self.convolution is None:
            return words
        words = words + functional.gelu(self.convolution(words.transpose(1, 2)).transpose(1, 2)) * real
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            found = convolution((norm(words) * real).transpose(1, 2)).transpose(1, 2)
            words = words + functional.gelu(found) * real
        return words

    def _pairs(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of each token with the one before it, (rows, length - 1, width)."""
        assert self.pair_embeddings is not None
        pairs, numbers = self.config.pairs, self.numbers[input_ids]
        return self.pair_embeddings((numbers[:, :-1] % pairs * HASH + numbers[:, 1:]) % pairs)


def _largest(words: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The maximum over the tokens, (rows, width). Padding counts as the first token, which is none."""
    return torch.where(real > 0, words, words[:, :1]).amax(1)


class StaticForTokenClassification(StaticForSequenceClassification):
    """Logits are of each token, (rows, length, labels): of its embedding, that of the pair which it ends, and the
    maximum over the text."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SequenceClassifierOutput:
        real = attention_mask.unsqueeze(-1).to(self.embeddings.weight.dtype)
        words = self._words(input_ids, real)
        found = words
        if self.pair_embeddings is not None:
            found = words + functional.pad(self._pairs(input_ids), (0, 0, 1, 0))
        logits = self.classifier(found)
        if self.max_classifier is not None:
            logits = logits + self.max_classifier(_largest(words, real)).unsqueeze(1)
        return SequenceClassifierOutput(logits=logits)


class StaticModel(StaticForSequenceClassification):
    """Logits are vectors (rows, vector_size) of any length."""


AutoConfig.register(STATIC, StaticConfig)
AutoModel.register(StaticConfig, StaticModel)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)
AutoModelForTokenClassification.register(StaticConfig, StaticForTokenClassification)
