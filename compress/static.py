"""The far end of the frontier: a student without layers, token embeddings + mean pooling + a linear head.

As model2vec it starts from the teacher's own token embeddings (their first principal components); unlike it, it is then
taught the teacher's answers. Pairs of neighbouring tokens have embeddings too, hashed into buckets as in fastText
(Joulin et al. 2016, arXiv 1607.01759), so that "not good" is not "good".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .distill import heal
from .families import STATIC
from .settings import Static
from .structure import family
from .train import Progress

HASH = 509  # a prime; with at most 2^15 buckets all stays below 2^24, where OpenVINO's float remainder is exact


class StaticConfig(PreTrainedConfig):
    """hidden_size: width of the embeddings. pairs: buckets of the pair embeddings, 0 for none."""

    model_type = STATIC

    def __init__(
        self, vocab_size: int = 1, hidden_size: int = 64, pairs: int = 0, max_position_embeddings: int = 512, **others
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.pairs = pairs
        self.max_position_embeddings = max_position_embeddings  # longer texts are cut there, as the teacher's were
        super().__init__(**others)


class StaticForSequenceClassification(PreTrainedModel):
    """input_ids and attention_mask (rows, length) int64 -> logits (rows, labels)."""

    config_class = StaticConfig
    base_model_prefix = "static"
    _supports_sdpa = True  # it has no attention, so every kind of it is supported

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pair_embeddings = nn.Embedding(config.pairs, config.hidden_size) if config.pairs else None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.embeddings = value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SequenceClassifierOutput:
        real = attention_mask.unsqueeze(-1).to(self.embeddings.weight.dtype)
        pooled = (self.embeddings(input_ids) * real).sum(1) / real.sum(1)
        if self.pair_embeddings is not None:
            pairs = self.config.pairs
            buckets = (input_ids[:, :-1] % pairs * HASH + input_ids[:, 1:]) % pairs
            pooled = pooled + (self.pair_embeddings(buckets) * real[:, 1:]).sum(1) / real.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(pooled))


AutoConfig.register(STATIC, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)


def static_student(
    teacher: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    settings: Static,
    *,
    scores: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """A static student of `teacher`, taught on token ids; `scores` as in `heal`."""
    student = _untaught(teacher, settings, seed)
    return heal(student, teacher, ids, settings, scores=scores, seed=seed, progress=progress)


def _untaught(teacher: PreTrainedModel, settings: Static, seed: int) -> StaticForSequenceClassification:
    """Embeddings: what the teacher makes of each token alone, on its first principal components, unit mean length."""
    vectors = _token_vectors(teacher)
    width = min(settings.width, vectors.shape[1], vectors.shape[0])
    _, _, axes = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    start = (vectors - vectors.mean(0)) @ axes[:width].T
    start = start / start.norm(dim=1).mean()
    torch.manual_seed(seed)
    config = StaticConfig(
        vocab_size=len(vectors),
        hidden_size=width,
        pairs=settings.pairs,
        max_position_embeddings=getattr(teacher.config, "max_position_embeddings", 512),
        pad_token_id=teacher.config.pad_token_id,
        id2label=teacher.config.id2label,
        label2id=teacher.config.label2id,
    )
    student = StaticForSequenceClassification(config)
    with torch.no_grad():
        student.embeddings.weight.copy_(start)
        if student.pair_embeddings is not None:
            student.pair_embeddings.weight.zero_()
    return student


def _token_vectors(teacher: PreTrainedModel) -> torch.Tensor:
    """The teacher's last hidden state of every token of its vocabulary, standing alone, (tokens, width) float32."""
    words = teacher.base_model.get_submodule(family(teacher).embeddings)
    assert isinstance(words, nn.Embedding)
    vectors = []
    with torch.inference_mode():
        for ids in torch.arange(words.num_embeddings).split(512):
            mask = torch.ones(len(ids), 1, dtype=torch.long)
            out = teacher.base_model(input_ids=ids[:, None], attention_mask=mask)
            vectors.append(out.last_hidden_state[:, 0].float())
    return torch.cat(vectors)
