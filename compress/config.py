"""Settings of each compression stage, with units. The recipe, the command line and the Python API share these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

OF_STUDENT = ("layers", "decoder_layers", "width")  # settings of a student that is made from the teacher
Share = Annotated[float, Field(gt=0, le=1)]
Processes = Annotated[int, Field(ge=1, le=64)]
PROCESSES = "processes that training and scoring are spread over, each with a GPU, or a part of the cores, of its own"


class Settings(BaseModel):
    """Unknown keys are errors everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Adversary(Settings):
    """Adversarial training: perturbations of the word embeddings along the gradient of the loss."""

    kind: Literal["fgm", "pgd", "freelb"] = Field(
        default="fgm",
        description="fgm: one perturbation; pgd: several steps, loss at the last; freelb: several steps, "
        "mean of their losses",
    )
    epsilon: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="size of the perturbation, as a share of the norm of the row's embeddings"
    )
    steps: Annotated[int, Field(ge=1)] = Field(default=3, description="perturbation steps of pgd and freelb")
    weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="weight of the adversarial loss, added to the plain loss (freelb: in place of it)"
    )


class Training(Settings):
    """Settings of every training loop."""

    epochs: Annotated[float, Field(gt=0)] = Field(default=2.0, description="epochs over the training rows")
    batch_size: Annotated[int, Field(ge=1)] = Field(default=32, description="rows per optimiser step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-4, description="peak of AdamW's learning rate")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the steps spent warming up, 0..1"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="AdamW's decoupled weight decay")
    freeze_embeddings: bool = Field(
        default=True, description="do not train the embeddings; a step takes a quarter less time"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="early-stopping patience, in evaluations (none: off)"
    )
    evaluations_per_epoch: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="evaluations on validation rows per epoch, for `patience`"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="learning-rate schedule after the warm-up"
    )
    adversarial: Adversary | None = Field(
        default=None, description="adversarial training on perturbed embeddings (a step takes twice the time, or more)"
    )


class Adapter(Settings):
    """Parameter-efficient fine-tuning (peft); the adapters are merged into the weights afterwards."""

    kind: Literal["lora", "dora", "adalora", "ia3", "loha", "lokr", "oft"] = Field(
        default="lora", description="kind of adapter of each linear layer; all of these can be merged"
    )
    rank: Annotated[int, Field(ge=1)] = Field(default=8, description="rank of the update (adalora: on average)")
    alpha: Annotated[float, Field(gt=0)] = Field(default=16, description="scale of the update, divided by the rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="dropout rate of the adapter's inputs"
    )


class Finetune(Training):
    """Train on the labelled rows alone."""

    peft: Adapter | None = Field(
        default=None, description="train adapters and the head only; use a ten times higher learning_rate"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="class weights of the loss: `balanced` (every label has the same total weight), or a "
        "number for each label",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-4, description="peak of AdamW's learning rate")


class Tune(Settings):
    """Hyperparameter search for `finetune` on a fifth of the training rows, compared with the given settings."""

    minutes: Annotated[float, Field(gt=0)] = Field(
        description="time limit of all trials together; the two final trainings come after it"
    )
    trials: Annotated[int, Field(ge=1)] = Field(default=40, description="maximum number of trials")
    finetune: Finetune = Field(
        default_factory=Finetune, description="settings of the first trial, and the reference for the best one"
    )
    peft: list[Literal["none", "lora", "dora", "adalora", "ia3", "loha", "lokr", "oft"]] = Field(
        default=["none", "lora"], min_length=1, description="kinds of adapters to try; none: all weights"
    )
    adversarial: bool = Field(default=False, description="also try adversarial training (a step takes twice the time)")


class Augment(Settings):
    """Data augmentation of the training rows; validation and test rows stay unchanged."""

    kinds: list[Literal["typos", "deletion", "swap", "synonyms", "masked", "back_translation"]] = Field(
        default=["typos", "deletion", "swap"],
        min_length=1,
        description="kinds of augmentation; each copy gets one of them at random",
    )
    copies: Annotated[int, Field(ge=1)] = Field(default=1, description="augmented copies of every row")
    share: Share = Field(default=0.1, description="share of the words of a row that are perturbed, at least one word")
    synonyms: str | None = Field(
        default=None, description="for synonyms: a file with one group of words on each line, separated by commas"
    )
    masked_model: str | None = Field(
        default=None, description="for masked: a masked-language model, directory or hub id"
    )
    through: list[str] = Field(
        default_factory=list,
        description="for back_translation: two sequence-to-sequence checkpoints, one for each direction",
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
    """Continual learning on new rows, with or without new labels."""

    replay: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="replayed old rows for each new row, evenly over the old labels"
    )
    lwf: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="weight of the distillation loss against the old model (learning without forgetting)"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(default=2.0, description="temperature of the lwf loss")
    ewc: Annotated[float, Field(ge=0)] = Field(default=0.0, description="weight of elastic weight consolidation (EWC)")
    ewc_rows: Annotated[int, Field(ge=1)] = Field(default=256, description="old rows for the Fisher information of ewc")
    retrain: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="epochs of a reference model trained on all rows (0: none)"
    )
    epochs: Annotated[float, Field(gt=0)] = Field(default=3.0, description="passes over new and replayed rows")
    freeze_embeddings: bool = Field(default=True, description="do not train the embeddings")


class DistillationTraining(Training):
    """Knowledge distillation into a smaller model."""

    temperature: Annotated[float, Field(gt=0)] = Field(default=2.0, description="temperature of the logit loss")
    hidden_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="weight of the per-token hidden-state loss (0: the teacher runs once, not in every step)",
    )
    relation_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the last layer's token-relation loss, for a student of any width"
    )
    quantize_aware: bool = Field(
        default=False, description="quantisation-aware training, where post-training INT8 loses too much"
    )
    label_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the loss on the rows' own labels"
    )
    learn_from: Literal["all", "unlabeled"] = Field(
        default="all",
        description="training and unlabelled rows, or the unlabelled ones alone; a teacher is overconfident "
        "on its own training rows",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=2e-4, description="peak of AdamW's learning rate")


class Recover(DistillationTraining):
    """Fine-tuning after pruning, by distillation; the rate is low because the model is near its teacher."""

    hidden_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the per-token hidden-state loss (0: the teacher runs once)"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=3e-5, description="peak of AdamW's learning rate")


class Distill(DistillationTraining):
    """A student made of some of the teacher's layers, or given as a checkpoint."""

    layers: int | list[int] = Field(
        default=3, description="number of layers, evenly spread, or a list of layers (from 0)"
    )
    width: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="hidden size of the student, a multiple of the size of a head (default: the teacher's)",
    )
    decoder_layers: int | list[int] | None = Field(
        default=None,
        description="text-to-text: layers of the decoder, which runs once for every token (default: as `layers`)",
    )
    student: str | None = Field(
        default=None,
        description="checkpoint of the student, directory or hub id, in place of layers and width",
    )

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a student from elsewhere decides itself, so that what is written can be read again."""
        left_out = OF_STUDENT if self.student is not None else ()
        return {name: value for name, value in dump(self).items() if name not in left_out}

    @model_validator(mode="after")
    def _fits(self) -> Distill:
        if self.student is not None and self.model_fields_set.intersection(OF_STUDENT):
            raise ValueError("a student from elsewhere has layers and a width of its own; leave these out")
        if self.width is not None and self.hidden_weight:
            raise ValueError(
                "hidden_weight compares hidden states of one size; with width, set it to 0 (relation_weight fits)"
            )
        return self


class Static(DistillationTraining):
    """A student without layers: token embeddings, pooling and a linear head, distilled from the teacher."""

    width: Annotated[int, Field(ge=1)] = Field(default=64, description="size of the embeddings")
    pairs: Annotated[int, Field(ge=0, le=2**15)] = Field(
        default=0, description="hash buckets of bigram embeddings (0: none)"
    )
    convolution: Annotated[int, Field(ge=0, le=9)] = Field(
        default=0, description="neighbouring tokens that a convolution over the embeddings reads, odd (0: none)"
    )
    convolution_layers: Annotated[int, Field(ge=1, le=8)] = Field(
        default=1, description="convolutions one after another, each adding to the one before it"
    )
    max_pooling: bool = Field(default=False, description="pool the maximum over the tokens too, beside the mean")
    epochs: Annotated[float, Field(gt=0)] = Field(default=6.0, description="passes over the rows")
    batch_size: Annotated[int, Field(ge=1)] = Field(default=64, description="rows per optimiser step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="peak of AdamW's learning rate")
    hidden_weight: Literal[0] = Field(default=0, description="0: a static student has no hidden states")  # type: ignore[assignment]
    relation_weight: Literal[0] = Field(default=0, description="0: a static student has no attention layers")  # type: ignore[assignment]
    quantize_aware: Literal[False] = Field(default=False, description="false: no matrix products to quantise")  # type: ignore[assignment]
    freeze_embeddings: Literal[False] = Field(default=False, description="false: the embeddings are trained")  # type: ignore[assignment]

    @field_validator("convolution")
    @classmethod
    def _odd(cls, tokens: int) -> int:
        if tokens and tokens % 2 == 0:
            raise ValueError(f"a convolution reads an odd number of tokens, not {tokens}: 3, for example (0: none)")
        return tokens

    @model_validator(mode="after")
    def _has_width(self) -> Static:
        if self.convolution_layers > 1 and not self.convolution:
            raise ValueError(
                f"convolution_layers: {self.convolution_layers} need the width of a convolution: give convolution: 3"
            )
        return self


class Trim(Settings):
    """Reduce the vocabulary to the tokens of the training rows and the unlabelled text, plus the most frequent ones."""

    frequent: Annotated[int, Field(ge=0)] = Field(
        default=2000, description="number of first tokens of the vocabulary that are always kept"
    )
    min_count: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="minimum count of a token in the text; rarer tokens are split into smaller pieces",
    )


class Truncate(Settings):
    """Read the first and the last tokens of longer texts, inside the model: what it costs is for validation to tell."""

    first: Annotated[int, Field(ge=1)] = Field(default=64, description="tokens that are read at the beginning")
    last: Annotated[int, Field(ge=1)] = Field(
        default=64, description="tokens that are read at the end, the closing special token among them"
    )


class Int8(Settings):
    """What INT8 may cost before matrix products go back to float. docs/compression.md has the rule."""

    max_drop: Annotated[float, Field(ge=0)] = Field(
        default=0.5,
        description="points of the metric that it may lose against the float model, on labelled calibration rows",
    )
    max_kl: Annotated[float, Field(ge=0)] = Field(
        default=0.01,
        description="distance to the float model's outputs where the rows have no labels: mean KL "
        "divergence, nats per row (numbers: squared error in variances; vectors: 1 - cosine)",
    )


class Timed(Settings):
    """The runtime, precision and batch that a time is measured in, on rows of the user's own lengths."""

    runtime: Literal["onnxruntime", "openvino"] = Field(default="onnxruntime", description="runtime of the model")
    precision: Literal["fp32", "bf16", "int8-dynamic", "int8-static"] = Field(
        default="int8-dynamic", description="number format"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(default=1, description="rows per call")

    @model_validator(mode="after")
    def _known(self) -> Timed:
        other = "bf16" if self.runtime == "onnxruntime" else "int8-dynamic"
        if self.precision == other:
            raise ValueError(f"{self.runtime} has no {other} here; give it another precision")
        return self


class Prune(Settings):
    """Structured pruning of heads, feed-forward neurons, layers and channels: to a measured latency, or to shares."""

    speedup: Annotated[float, Field(gt=1)] | None = Field(
        default=None,
        description="target speed-up against the input model of the step, measured in `target`",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="target latency of a call, in milliseconds, in place of a speed-up"
    )
    target: Timed = Field(default_factory=Timed, description="runtime, precision and batch size of the latency target")
    time_shape: bool = Field(
        default=True,
        description="time the shape that the latency table selects, and correct the table by it (about a minute)",
    )
    even: bool = Field(
        default=False, description="the same shape in every layer, so that plain transformers can load it"
    )
    heads: Share = Field(
        default=1.0,
        description="share of all attention heads to keep, 0..1, spread by importance; of Llama and Qwen2, of the "
        "groups of heads that share keys and values, as many in every layer",
    )
    ffn: Share = Field(default=1.0, description="share of all feed-forward neurons to keep, 0..1, spread by importance")
    layers: int | list[int] | None = Field(
        default=None, description="layers to keep: how many (chosen by measured effect) or which (from 0)"
    )
    channels: Share = Field(
        default=1.0, description="share of the channels of every stage of a convolutional network to keep, 0..1"
    )
    importance: Literal["fisher", "taylor", "magnitude"] = Field(
        default="fisher",
        description="importance score: fisher: Fisher information and reconstruction error; published ones to compare "
        "with: taylor (weight x gradient), magnitude (norm of the weights)",
    )
    multiple: Annotated[int, Field(ge=1)] = Field(
        default=32, description="feed-forward widths and numbers of channels are multiples of this"
    )
    rows: Annotated[int, Field(ge=1)] = Field(default=1024, description="training rows for importance scores")
    resolve: bool = Field(
        default=True,
        description="refit the output projections after pruning (least squares); of a convolutional network, estimate "
        "its batch norms again",
    )
    recover: Recover | None = Field(
        default=None, description="fine-tuning after pruning, by distillation from the unpruned model"
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
        if self.channels < 1 and (self.timed or self.heads < 1 or self.ffn < 1 or self.layers is not None):
            raise ValueError("channels: of a convolutional network, which has no heads, ffn, layers or latency target")
        return self


Stage = Finetune | Prune | Recover | Distill | Static | Truncate | Trim
