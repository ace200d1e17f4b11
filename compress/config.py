"""What each compression stage can be told, with units. The recipe, the command line and the Python API share these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Unknown keys are errors everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Adversary(Settings):
    """Small pushes of the word embeddings, in the direction that hurts most, that training has to withstand."""

    kind: Literal["fgm", "pgd", "freelb"] = Field(
        default="fgm",
        description="fgm: one push; pgd: the end of several; freelb: the mean of the loss along several",
    )
    epsilon: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="size of the push, a share of the norm of the row's embeddings"
    )
    steps: Annotated[int, Field(ge=1)] = Field(default=3, description="pushes of pgd and freelb")
    weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="of the loss under the push, beside the plain one (freelb: instead of it)"
    )


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
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after this many looks at validation without a better one (none: never look)"
    )
    looks: Annotated[float, Field(gt=0)] = Field(default=2.0, description="looks at validation per epoch")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="how the learning rate goes after the warm-up"
    )
    adversarial: Adversary | None = Field(
        default=None, description="withstand small pushes of the embeddings (twice the time a step, or more)"
    )


class Adapter(Settings):
    """Train a few numbers beside the weights (peft) and merge them into the weights afterwards."""

    kind: Literal["lora", "dora", "adalora", "ia3", "loha", "lokr", "oft"] = Field(
        default="lora", description="what is trained beside each linear layer; all of these can be merged"
    )
    rank: Annotated[int, Field(ge=1)] = Field(default=8, description="of the update (adalora: on average)")
    alpha: Annotated[float, Field(gt=0)] = Field(default=16, description="scale of the update, divided by the rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="share of its inputs left out")


class Finetune(Training):
    """Train on the labelled rows alone."""

    peft: Adapter | None = Field(
        default=None, description="train adapters and the head only; they like a ten times higher learning_rate"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="weight of a row in the loss: `balanced` (rare labels count as much), or a number by label",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-4, description="peak of AdamW's learning rate")


class Tune(Settings):
    """Look for better settings of `finetune` on a fifth of the training rows, and say whether they are."""

    minutes: Annotated[float, Field(gt=0)] = Field(description="for trials together; the two last trainings come after")
    trials: Annotated[int, Field(ge=1)] = Field(default=40, description="at most")
    finetune: Finetune = Field(
        default_factory=Finetune, description="the first trial, and what the best one is held against"
    )
    peft: list[Literal["none", "lora", "dora", "adalora", "ia3", "loha", "lokr", "oft"]] = Field(
        default=["none", "lora"], min_length=1, description="kinds of adapters to try; none: all weights"
    )
    adversarial: bool = Field(default=False, description="also try pushes of the embeddings (twice the time a step)")


class Augment(Settings):
    """Changed copies of the training rows; validation and test are never touched."""

    kinds: list[Literal["typos", "deletion", "swap", "synonyms", "masked", "back_translation"]] = Field(
        default=["typos", "deletion", "swap"],
        min_length=1,
        description="each copy gets one of these, drawn by the seed",
    )
    copies: Annotated[int, Field(ge=1)] = Field(default=1, description="changed copies of every row")
    share: Share = Field(default=0.1, description="share of a row's words that a change touches, one at least")
    synonyms: str | None = Field(
        default=None, description="for synonyms: a file with a group of words a line, commas between them"
    )
    masked_model: str | None = Field(
        default=None, description="for masked: a masked-language model, directory or hub id; its words fill the gaps"
    )
    through: list[str] = Field(
        default_factory=list,
        description="for back_translation: two sequence-to-sequence checkpoints, there and back",
    )

    @model_validator(mode="after")
    def _given(self) -> Augment:
        for kind, key, there in (
            ("synonyms", "synonyms", self.synonyms),
            ("masked", "masked_model", self.masked_model),
            ("back_translation", "through", len(self.through) == 2),
        ):
            if (kind in self.kinds) != bool(there):
                raise ValueError(
                    f"{kind} needs {key}"
                    + (" (two checkpoints)" if key == "through" else "")
                    + ", and the other way round"
                )
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds: one is named twice")
        return self


class Update(Training):
    """Learn new rows, with new labels or without, and keep what the checkpoint knew."""

    replay: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="old rows that are seen again for every new one, evenly over the old labels"
    )
    lwf: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="weight of staying with the old model's answers (learning without forgetting)"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(default=2.0, description="softens both sides of lwf")
    ewc: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of staying near the old weights that matter (elastic weight consolidation)"
    )
    ewc_rows: Annotated[int, Field(ge=1)] = Field(default=256, description="old rows that ewc is measured on")
    retrain: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="epochs of a second model on all rows, to compare with (0: none)"
    )
    epochs: Annotated[float, Field(gt=0)] = Field(default=3.0, description="passes over new and replayed rows")
    freeze_embeddings: bool = Field(default=True, description="leave the embeddings as they are")


class Heal(Training):
    """Train a smaller model to answer as its teacher does."""

    temperature: Annotated[float, Field(gt=0)] = Field(default=2.0, description="softens both sides of the logit loss")
    hidden_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="weight of the per-token hidden-state loss (0: the teacher runs once, not in every step)",
    )
    relation_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the last layer's token-relation loss, for a student of any width"
    )
    quantize_aware: bool = Field(
        default=False, description="train with INT8's rounding, where plain INT8 loses too much"
    )
    label_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the loss on the rows' own labels"
    )
    learn_from: Literal["all", "unlabeled"] = Field(
        default="all",
        description="training and unlabelled rows, or the unlabelled ones alone: a teacher is surer of the rows that "
        "it was trained on than of any other",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=2e-4, description="peak of AdamW's learning rate")


class Recover(Heal):
    """Heal a cut model: it is near its teacher already, and a higher rate would take it further away."""

    hidden_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the per-token hidden-state loss (0: the teacher runs once)"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=3e-5, description="peak of AdamW's learning rate")


class Distill(Heal):
    """A student made of some of the teacher's own layers, or one that comes from elsewhere."""

    layers: int | list[int] = Field(default=3, description="how many layers, evenly spread, or which ones (from 0)")
    width: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="hidden size of the student, a multiple of the size of a head (default: the teacher's)",
    )
    decoder_layers: int | list[int] | None = Field(
        default=None,
        description="text-to-text: layers of the half that writes, which is run for every token (default: as `layers`)",
    )
    student: str | None = Field(
        default=None,
        description="another checkpoint as the student instead: directory or hub id; layers and width are its own",
    )

    @model_validator(mode="after")
    def _fits(self) -> Distill:
        if self.student is not None and {"layers", "decoder_layers", "width"} & self.model_fields_set:
            raise ValueError("a student from elsewhere has layers and a width of its own; leave these out")
        if self.width is not None and self.hidden_weight:
            raise ValueError(
                "hidden_weight compares hidden states of one size; with width, set it to 0 (relation_weight fits)"
            )
        return self


class Static(Heal):
    """A student without layers: token embeddings, mean pooling and a linear head, taught the teacher's answers."""

    width: Annotated[int, Field(ge=1)] = Field(default=64, description="of the embeddings")
    pairs: Annotated[int, Field(ge=0, le=2**15)] = Field(
        default=0, description="buckets for embeddings of neighbouring tokens (0: none)"
    )
    epochs: Annotated[float, Field(gt=0)] = Field(default=6.0, description="passes over the rows")
    batch_size: Annotated[int, Field(ge=1)] = Field(default=64, description="rows per optimiser step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="peak of AdamW's learning rate")
    hidden_weight: Literal[0] = Field(default=0, description="it has no hidden states")  # type: ignore[assignment]
    relation_weight: Literal[0] = Field(default=0, description="and no layers that relate tokens")  # type: ignore[assignment]
    quantize_aware: Literal[False] = Field(default=False, description="nor products to round")  # type: ignore[assignment]
    freeze_embeddings: Literal[False] = Field(default=False, description="they are all there is to learn")  # type: ignore[assignment]


class Trim(Settings):
    """Cut the vocabulary to the tokens of the training rows and the unlabelled text, plus a floor."""

    frequent: Annotated[int, Field(ge=0)] = Field(
        default=2000, description="first pieces of the vocabulary that stay whether the text has them or not"
    )
    min_count: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="times that the text must have a token for it to stay; rarer ones fall into smaller pieces",
    )


class Int8(Settings):
    """What INT8 may cost before matrix products go back to float. docs/compression.md has the rule."""

    max_drop: Annotated[float, Field(ge=0)] = Field(
        default=0.5,
        description="points of the metric that it may lose against the float model, on labelled calibration rows",
    )
    max_kl: Annotated[float, Field(ge=0)] = Field(
        default=0.01,
        description="distance to the float model's answers where the rows have no labels: mean KL divergence, nats a "
        "row (numbers: squared error in variances; vectors: 1 - cosine)",
    )


class Timed(Settings):
    """The runtime, precision and batch that a time is measured in, on rows of the user's own lengths."""

    runtime: Literal["onnxruntime", "openvino"] = Field(default="onnxruntime", description="what runs the model")
    precision: Literal["fp32", "bf16", "int8-dynamic", "int8-static"] = Field(
        default="int8-dynamic", description="number format"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(default=1, description="rows a call")

    @model_validator(mode="after")
    def _known(self) -> Timed:
        other = "bf16" if self.runtime == "onnxruntime" else "int8-dynamic"
        if self.precision == other:
            raise ValueError(f"{self.runtime} has no {other} here; give it another precision")
        return self


class Prune(Settings):
    """Cut whole heads, feed-forward neurons and layers: to a time that is measured here, or to given shares."""

    speedup: Annotated[float, Field(gt=1)] | None = Field(
        default=None,
        description="how many times faster than the model that the step is given, in the `target` that it is timed in",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="milliseconds of a call instead of a speed-up"
    )
    target: Timed = Field(default_factory=Timed, description="what the time is measured in")
    even: bool = Field(
        default=False, description="the same shape in every layer, so that plain transformers can load it"
    )
    heads: Share = Field(default=1.0, description="share of all attention heads to keep, 0..1, spread by importance")
    ffn: Share = Field(default=1.0, description="share of all feed-forward neurons to keep, 0..1, spread by importance")
    layers: int | list[int] | None = Field(
        default=None, description="layers to keep: how many (chosen by measured effect) or which (from 0)"
    )
    multiple: Annotated[int, Field(ge=1)] = Field(default=32, description="feed-forward widths are multiples of this")
    rows: Annotated[int, Field(ge=1)] = Field(default=1024, description="training rows that importance is measured on")
    resolve: bool = Field(default=True, description="solve the output projections again after the cut (least squares)")
    recover: Recover | None = Field(
        default=None, description="training after the cut, with the uncut model as the teacher"
    )

    @property
    def timed(self) -> bool:
        """True when a time is the target."""
        return self.speedup is not None or self.latency_ms is not None

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        if self.speedup is not None and self.latency_ms is not None:
            raise ValueError("give speedup or latency_ms, not both")
        if self.timed and (self.heads < 1 or self.ffn < 1):
            raise ValueError("a time (speedup, latency_ms) decides heads and ffn; leave these out")
        return self


Stage = Finetune | Prune | Recover | Distill | Static | Trim
