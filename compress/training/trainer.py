"""One training loop for every stage: transformers' Trainer with a loss of ours.

No checkpoints are written while it runs: a stage is one step of the run, and a killed step starts again.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from paredown.runtime.errors import InputError, StepError, nearest
from paredown.tasks.base import NO_LABEL

from ..config import Finetune, Training
from ..distributed import group
from ..distributed.errors import TooManyRows
from ..models.architectures import FAMILIES
from ..models.inference import IN_FLOAT32, fast_bf16
from ..models.output_kinds import OutputKind, inputs_of, kind_of, label_names, not_finite, pad_id
from ..types import Labels, Loss, Progress, TrainingData
from .batches import IDLE, Batches, Rows
from .collate import PARTNER, ROW, stack
from .losses import ValidationLoss, labels_key, one_a_line, supervised
from .target_scaling import standard_units


@dataclass(frozen=True)
class Monitor:
    """What follows a training run."""

    judge: ValidationLoss | None = None  # for early stopping
    progress: Progress | None = None
    callbacks: Sequence[TrainerCallback] = ()
    by_epoch: list[float] | None = None  # where it is given, the validation loss after each epoch comes into it


def finetune(
    model: PreTrainedModel,
    data: TrainingData,
    settings: Finetune,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    by_epoch: list[float] | None = None,
) -> PreTrainedModel:
    """Train `model` in place on labelled rows, with their cross-entropy (numbers: their squared error); returns it.

    `patience` stops on the validation rows of `data`, whose loss after each epoch is appended to `by_epoch`. Adapters
    are merged when it returns.
    """
    assert data.labels is not None
    with standard_units(model, data.ids, data.labels) as unit:
        judged = None if data.validation is None else (data.validation[0], unit(data.validation[1]))
        scaled = replace(data, labels=unit(data.labels), validation=judged)
        monitor = Monitor(progress=progress, callbacks=callbacks, by_epoch=by_epoch)
        return _finetune(model, scaled, settings, seed, monitor)


def _finetune(
    model: PreTrainedModel, data: TrainingData, settings: Finetune, seed: int, monitor: Monitor
) -> PreTrainedModel:
    """`finetune` in the units of the model's outputs."""
    ids, labels = data.ids, data.labels
    assert labels is not None
    name, kind = labels_key(model), kind_of(model)
    if kind is OutputKind.SEQ2SEQ:
        from .seq2seq_targets import training_rows

        rows = training_rows(model, ids, labels)
    else:
        rows = [{ROW: row, name: label} for row, label in zip(ids, labels, strict=True)]
    if kind is OutputKind.VECTOR:  # a pair is learned from as one; a text without another is not
        rows = [row | {PARTNER: ids[i + 1]} for i, row in enumerate(rows) if not np.isnan(row[name])]
        if not rows:
            raise InputError("finetune: pairs of texts are needed, and the rows have one text each")
    if settings.class_weights is not None and kind is not OutputKind.LABEL:
        raise InputError(
            "class_weights: for rows of one label each, not of several, nor of a number, an answer or a vector"
        )
    weights = label_weights(settings.class_weights, labels, label_names(model))

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return supervised(net(**inputs_of(batch)).logits, batch, kind, weights)

    if data.validation is not None:
        monitor = replace(monitor, judge=ValidationLoss(*data.validation, weights))
    if settings.peft is None:
        return fit(model, rows, loss, settings, seed=seed, monitor=monitor)
    from .adapters import adapted

    with adapted(model, settings.peft, math.ceil(len(rows) / settings.batch_size * settings.epochs)) as adapters:
        monitor = replace(monitor, callbacks=[*monitor.callbacks, *adapters.callbacks])
        return fit(
            model, rows, lambda net, batch: loss(net, batch) + adapters.penalty(), settings, seed=seed, monitor=monitor
        )


def label_weights(given: str | Mapping[str, float] | None, labels: Labels, names: Sequence[str]) -> torch.Tensor | None:
    """Weight of each label in the loss, (labels,) float32. `balanced`: rows (or words) / (labels * rows of it)."""
    if given is None:
        return None
    if given == "balanced":
        lines = one_a_line(labels)
        counts = np.bincount(lines[lines != NO_LABEL], minlength=len(names))
        return torch.tensor(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    assert isinstance(given, Mapping)
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise InputError(f"class_weights: '{unknown}' is no label of the checkpoint; {nearest(unknown, names)}")
    return torch.tensor([given.get(name, 1.0) for name in names], dtype=torch.float32)


def fit(  # noqa: C901
    model: PreTrainedModel,
    rows: list[dict],
    loss: Loss,
    settings: Training,
    *,
    seed: int,
    monitor: Monitor | None = None,
) -> PreTrainedModel:
    """Train in place, then leave the model in evaluation mode on the CPU; returns it.

    `rows` are {ROW: [int] or pixels, "labels": int, float or (tokens,), ...}; further keys: float tensors; PARTNER:
    the ids of a second text, whose rows stand behind the others in a batch. Raises StepError when the loss or a weight
    is not finite. Out of memory: half the rows at a time, the same rows per step.

    In each of several processes (distributed/group.py): every one computes its part of each batch, and has the same
    weights afterwards, those of one process but for rounding and for dropout. Batch norms see the part alone.
    """
    monitor = monitor or Monitor()
    embeddings = model.get_input_embeddings() if kind_of(model) is OutputKind.SEQ2SEQ else None
    if embeddings is None:  # positions and norms too
        parts, known = dict(model.base_model.named_children()), FAMILIES.get(model.config.model_type)
        names = (known.embeddings.partition(".")[0],) if known else ("embeddings", "embedder")
        embeddings = next((parts[name] for name in names if name in parts), None) or model.get_input_embeddings()
    trained = [p for p in embeddings.parameters() if p.requires_grad]
    micro = _rows_at_a_time(model, rows, settings.batch_size)
    if settings.adversarial is not None:
        if kind_of(model) is OutputKind.SEQ2SEQ:
            raise InputError(
                "adversarial: not supported for text-to-text models, whose encoder and decoder share embeddings"
            )
        from .adversarial import hardened

        loss = hardened(loss, model, settings.adversarial)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forward = vars(model).get("forward")
    try:
        if settings.freeze_embeddings:
            embeddings.requires_grad_(False)
        while True:
            try:
                with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
                    args = _arguments(model, settings, micro, seed, Path(scratch))
                    trainer = _trainer(model, rows, loss, settings, args)
                    best = None
                    if monitor.judge is not None and settings.patience is not None:
                        every = max(1, round(len(rows) / settings.batch_size / settings.evaluations_per_epoch))
                        best = _Best(monitor.judge, settings.patience, every)
                        trainer.add_callback(best)
                    if monitor.judge is not None and monitor.by_epoch is not None:
                        monitor.by_epoch.clear()
                        trainer.add_callback(_ByEpoch(monitor.judge, monitor.by_epoch))
                    if monitor.progress:
                        trainer.add_callback(_Report(monitor.progress, settings.batch_size))
                    for callback in monitor.callbacks:
                        trainer.add_callback(callback)
                    trainer.train()
                    if best is not None:
                        best.restore(model)
                break
            except (torch.OutOfMemoryError, MemoryError) as error:
                if micro == 1:
                    raise StepError("out of memory with one row at a time; use shorter rows (max_length)") from error
                if group.count() > 1 and kind_of(model) is OutputKind.VECTOR:
                    raise StepError("out of memory; use a smaller batch_size, or shorter rows (max_length)") from error
                if group.count() > 1:
                    raise TooManyRows(micro) from error
                micro = max(1, micro // 2)
                model.load_state_dict(start)
                if monitor.progress:
                    monitor.progress(0.0, f"out of memory: again with {micro} rows at a time")
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for name in ("forward", "_original_forward"):  # accelerate's, which computes in bf16 where that is fast
            vars(model).pop(name, None)
        if forward is not None:
            model.forward = forward
    cast(nn.Module, model).to("cpu").eval()
    broken = not_finite(model)
    if broken is not None:
        raise StepError(f"training left '{broken}' with values that are not finite; lower learning_rate")
    return model


TOKENS = 4096  # of a CPU's batch at a time: reviews of 267 tokens take 2.2 GB instead of 3.4, and are 1.1 times as fast
LENGTHS = 8  # on a CPU in bf16, texts are padded to multiples of so many tokens
SHORT = 192  # tokens up to which attention as two matrix products is faster there


def _rows_at_a_time(model: PreTrainedModel, rows: list[dict], batch_size: int) -> int:
    """As many rows of a batch as a process computes together: on a CPU, where memory is the user's own, not many long
    ones. All of its part where a row's loss depends on the others of its batch."""
    part = math.ceil(batch_size / group.count())
    if kind_of(model) is OutputKind.VECTOR:
        return part
    if torch.cuda.is_available() or np.ndim(rows[0][ROW]) != 1:
        return group.rows_at_a_time(part)
    longest = max(len(row[ROW]) for row in rows)
    return group.rows_at_a_time(min(part, max(1, TOKENS // longest)))


class _Trainer(Trainer):
    """Trainer with a loss given as a function, that stops at the first loss which is not finite."""

    our_loss: Loss
    fast_attention: bool  # where texts are short
    batches: Batches

    def get_train_dataloader(self):
        assert self.train_dataset is not None
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        short = "input_ids" in inputs and inputs["input_ids"].shape[1] <= SHORT
        idle = IDLE in inputs
        with (
            group.one_loss(idle=idle),
            _plain_attention() if self.fast_attention and short else contextlib.nullcontext(),
        ):
            value = self.our_loss(model, inputs) * (not idle)
        if not torch.isfinite(value):
            raise StepError(
                f"the loss is {value.item()} at step {self.state.global_step + 1} of {self.state.max_steps}; "
                "lower learning_rate, or check the training rows"
            )
        return value


class _Report(TrainerCallback):
    def __init__(self, progress: Progress, batch_size: int) -> None:
        self.progress, self.batch_size = progress, batch_size
        self.begin = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        now, most = state.global_step, state.max_steps
        speed = now * self.batch_size / max(1e-9, time.monotonic() - self.begin)
        self.progress(now / max(1, most), f"step {now} of {most}, {speed:.0f} rows/s")


class _ByEpoch(TrainerCallback):
    """The validation loss after each epoch."""

    def __init__(self, judge: ValidationLoss, found: list[float]) -> None:
        self.judge, self.found = judge, found

    def on_epoch_end(self, args, state, control, **kwargs):
        self.found.append(float(self.judge(kwargs["model"])))


class _Best(TrainerCallback):
    """Early stopping: evaluates every so many steps, keeps the best weights, stops when none are better."""

    def __init__(self, judge: ValidationLoss, patience: int, every: int) -> None:
        self.judge, self.patience, self.every = judge, patience, every
        self.least, self.weights, self.since = float("inf"), {}, 0

    def on_step_end(self, args, state, control, **kwargs):
        model = kwargs["model"]
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        value = self.judge(model)
        self.since += 1
        if value < self.least:
            self.least, self.since = value, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        control.should_training_stop = self.since >= self.patience

    def restore(self, model: PreTrainedModel) -> None:
        if self.weights:
            model.load_state_dict(self.weights)


def _arguments(model: PreTrainedModel, settings: Training, micro: int, seed: int, scratch: Path) -> TrainingArguments:
    """The settings as transformers has them; `micro` rows at a time."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(settings.batch_size / (micro * group.count())),
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        seed=seed,
        bf16=fast_bf16() and model.config.model_type not in IN_FLOAT32,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else one process would use all GPUs, and a larger batch
    return arguments


def _trainer(
    model: PreTrainedModel, rows: list[dict], loss: Loss, settings: Training, args: TrainingArguments
) -> _Trainer:
    bf16_cpu = args.bf16 and args.use_cpu
    collator = _collator(model, rows, few_lengths=bf16_cpu)
    trainer = _Trainer(model=model, args=args, train_dataset=Rows(rows), data_collator=collator)
    trainer.batches = Batches(
        [len(row[ROW]) for row in rows], settings.batch_size, args.per_device_train_batch_size,
        seed=args.seed, rank=group.rank(), count=group.count(),
    )  # fmt: skip
    torch.manual_seed(args.seed + group.rank())  # of dropout
    trainer.our_loss = loss
    trainer.fast_attention = bf16_cpu
    trainer.model_accepts_loss_kwargs = False  # our loss is a mean: let it be divided when gradients accumulate
    with contextlib.suppress(ValueError):
        trainer.remove_callback(PrinterCallback)
    return trainer


def _collator(model: PreTrainedModel, rows: list[dict], *, few_lengths: bool) -> Callable[[list[dict]], dict]:
    """`stack`; `few_lengths`: texts padded to multiples of LENGTHS, for bf16 on a CPU: there oneDNN compiles a kernel
    for each shape, and keeps 1,024 of them."""
    multiple, per_token = 1, set()
    lengths = [len(row[ROW]) for row in rows]
    if few_lengths and len(set(lengths)) > 1:
        multiple = LENGTHS
        for name in rows[0].keys() - {ROW, PARTNER}:
            if all(np.ndim(row[name]) and len(row[name]) == length for row, length in zip(rows, lengths, strict=True)):
                per_token.add(name)
    return partial(stack, filler=pad_id(model), multiple=multiple, per_token=per_token)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as two matrix products: in short texts on a CPU, PyTorch's fused one takes 13 times as long backward
    as forward."""
    reduced = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # on a CPU too, despite its name
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)
