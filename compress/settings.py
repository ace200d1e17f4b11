"""What each compression stage can be told, with units. The recipe, the command line and the Python API share these."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Unknown keys are errors everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(Settings):
    """What every training loop needs to know."""

    epochs: Annotated[float, Field(gt=0)] = Field(default=2.0, description="passes over the training rows")
    batch_size: Annotated[int, Field(ge=1)] = Field(default=32, description="rows per optimiser step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-4, description="peak of AdamW's learning rate")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the steps spent warming up, 0..1"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="AdamW's decoupled weight decay")
    freeze_embeddings: bool = Field(
        default=True, description="leave the embeddings as they are: a quarter less time a step"
    )


class Finetune(Training):
    """Train on the labelled rows alone."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-4, description="peak of AdamW's learning rate")


class Heal(Training):
    """Train a smaller model to answer as its teacher does."""

    temperature: Annotated[float, Field(gt=0)] = Field(default=2.0, description="softens both sides of the logit loss")
    hidden_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="weight of the per-token hidden-state loss (0: the teacher runs once, not in every step)",
    )
    label_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the loss on the rows' own labels"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=2e-4, description="peak of AdamW's learning rate")


class Distill(Heal):
    """A student made of some of the teacher's own layers."""

    layers: int | list[int] = Field(default=3, description="how many layers, evenly spread, or which ones (from 0)")


class Prune(Settings):
    """Cut whole heads, feed-forward neurons and layers; least important first."""

    heads: Share = Field(default=1.0, description="share of all attention heads to keep, 0..1, spread by importance")
    ffn: Share = Field(default=1.0, description="share of all feed-forward neurons to keep, 0..1, spread by importance")
    layers: int | list[int] | None = Field(
        default=None, description="layers to keep: how many (chosen by measured loss) or which (from 0)"
    )
    multiple: Annotated[int, Field(ge=1)] = Field(default=32, description="feed-forward widths are multiples of this")
    rows: Annotated[int, Field(ge=1)] = Field(default=512, description="training rows that importance is measured on")
    recover: Heal | None = Field(
        default=None, description="training after the cut, with the uncut model as the teacher"
    )
