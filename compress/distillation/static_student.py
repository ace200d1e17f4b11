"""The static student: token embeddings, pooling and a linear head, without layers.

As model2vec it starts from the teacher's own token embeddings (their first principal components); unlike it, it is then
trained on the teacher's answers. Pairs of neighbouring tokens have embeddings too, hashed into buckets as in fastText
(Joulin et al. 2016, arXiv 1607.01759), so that "not good" is not "good". A convolution over a few tokens and the
maximum over all of them (Kim 2014, arXiv 1408.5882) find phrases, wherever they stand in a text.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from ..config import Static
from ..models.output_kinds import OutputKind, kind_of
from ..models.pooling import embed
from ..models.static_embedding import (
    StaticConfig,
    StaticForSequenceClassification,
    StaticForTokenClassification,
    StaticModel,
)
from ..models.structure import family
from ..models.token_types import take_marks_off
from ..types import Progress, TrainingData
from .distill import train_student


def static_student(
    teacher: PreTrainedModel,
    data: TrainingData,
    settings: Static,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """A static student of `teacher`, trained as `train_student` does."""
    student = initial_student(teacher, settings, seed)
    return train_student(student, teacher, data, settings, seed=seed, progress=progress)


def initial_student(teacher: PreTrainedModel, settings: Static, seed: int) -> StaticForSequenceClassification:
    """An untrained student for `train_student`. Its embeddings: the teacher's vector of each token
    alone, on the first principal components, of unit mean length."""
    vectors = _token_vectors(teacher)
    width = min(settings.width, vectors.shape[1], vectors.shape[0])
    _, _, axes = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    start = (vectors - vectors.mean(0)) @ axes[:width].T
    start = start / start.norm(dim=1).mean()
    torch.manual_seed(seed)
    embeds = kind_of(teacher) is OutputKind.VECTOR
    config = StaticConfig(
        vocab_size=len(vectors),
        hidden_size=width,
        pairs=settings.pairs,
        convolution=settings.convolution,
        convolution_layers=settings.convolution_layers,
        max_pooling=settings.max_pooling,
        max_position_embeddings=getattr(teacher.config, "max_position_embeddings", 512),
        pad_token_id=teacher.config.pad_token_id,
        id2label=teacher.config.id2label,
        label2id=teacher.config.label2id,
        problem_type=teacher.config.problem_type,
        vector_size=vectors.shape[1] if embeds else 0,
    )
    student = _architecture(teacher)(config)
    with torch.no_grad():
        student.embeddings.weight.copy_(start)
        if embeds:  # back from the components, in the teacher's space as model2vec's; without what all tokens share
            student.classifier.weight.copy_(axes[:width].T)
            student.classifier.bias.zero_()
        if student.pair_embeddings is not None:
            student.pair_embeddings.weight.zero_()
        if student.max_classifier is not None:
            student.max_classifier.weight.zero_()
    if embeds:
        embed(student, "mean")
    take_marks_off(student)
    return student


def _architecture(teacher: PreTrainedModel) -> type[StaticForSequenceClassification]:
    if kind_of(teacher) is OutputKind.VECTOR:
        return StaticModel
    tokens = type(teacher).__name__.endswith("ForTokenClassification")
    return StaticForTokenClassification if tokens else StaticForSequenceClassification


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
