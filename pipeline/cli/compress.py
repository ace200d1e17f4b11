"""The commands `prune`, `trim` and `distill`: a checkpoint directory in, a checkpoint directory out."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from paredown.compress.config import Distill, Prune, Recover, Static, Timed, Trim
from paredown.compress.data import dataset
from paredown.compress.data.dataset import read_rows, read_unlabeled_rows
from paredown.compress.distillation.compatibility import check_student, check_teacher, same_tokens
from paredown.compress.models.architectures import CONVOLUTIONAL, check_pruning
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import batches_of
from paredown.tasks.base import Feature
from paredown.tasks.rows import some_of

from .common import (
    Adversarial,
    BatchSize,
    LabelColumn,
    MaxLength,
    OutputDir,
    Rate,
    Seed,
    Source,
    TaskOption,
    TextColumn,
    Unlabeled,
    Validation,
    adversarial_settings,
    kept_apart,
    metric,
    optional,
    out,
    say,
    task_for,
    writing,
)
from .validation import checked

app = typer.Typer()


@app.command()
def prune(
    checkpoint: Source,
    train: Annotated[
        str, typer.Option(help="Rows for importance scores and for fine-tuning after pruning; labels are not needed.")
    ],
    output_dir: OutputDir,
    validation: Validation = None,
    unlabeled: Unlabeled = None,
    speedup: Annotated[float | None, typer.Option(help="Target speed-up, measured on this machine.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Target latency of a call, in ms, instead of a speed-up.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime of the latency target: onnxruntime or openvino.")
    ] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="Precision of the latency target.")] = "int8-dynamic",
    even: Annotated[
        bool, typer.Option(help="Use one shape in every layer, so that transformers can load the model.")
    ] = False,
    heads: Annotated[float | None, typer.Option(help="Share of attention heads to keep, 0 to 1.")] = None,
    ffn: Annotated[float | None, typer.Option(help="Share of feed-forward neurons to keep, 0 to 1.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to keep: a number, or a list such as 0,2,5.")] = None,
    channels: Annotated[
        float | None, typer.Option(help="Share of the channels of a convolutional network to keep, 0 to 1.")
    ] = None,
    importance: Annotated[
        str, typer.Option(help="Importance score: fisher, or to compare with: taylor, magnitude.")
    ] = "fisher",
    rows: Annotated[int, typer.Option(min=1, help="Number of training rows for importance scores.")] = 1024,
    recover_epochs: Annotated[
        float, typer.Option(min=0, help="Epochs of fine-tuning after pruning, by distillation (0: none).")
    ] = 0.0,
    adversarial: Adversarial = None,
    learning_rate: Rate = 3e-5,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Structured pruning of heads, feed-forward neurons, layers or channels, to a latency target or to given shares."""
    from paredown.compress.distillation.distill import train_student
    from paredown.compress.pruning.prune import Latency
    from paredown.compress.pruning.prune import prune as cut
    from paredown.compress.types import TrainingData

    from ..steps.latency_table import Stopwatch

    kind = task_for(task, Feature.PRUNE, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint, kind)
    data = read_rows(kind, train, labelled=False)
    more = read_unlabeled_rows(kind, unlabeled) if unlabeled else None
    held_out, more = kept_apart(data, optional(validation, kind, source.labels), more)
    timed = speedup is not None or latency_ms is not None
    if not timed and heads is None and ffn is None and layers is None and channels is None:
        if source.config.get("model_type") in CONVOLUTIONAL:
            channels = 0.7
        else:
            heads, ffn = 0.7, 0.6
    settings = checked(
        Prune,
        {
            "speedup": speedup, "latency_ms": latency_ms, "even": even, "heads": heads, "ffn": ffn, "rows": rows,
            "channels": channels, "importance": importance, "layers": _layers(layers),
            "target": checked(Timed, {"runtime": runtime, "precision": precision}),
        },
    )  # fmt: skip
    check_pruning(source.config.get("model_type", ""), settings)
    ids = dataset.encode(source.encoder(max_length), data)
    further = [] if more is None else dataset.encode(source.encoder(max_length), more)
    failed: StepError | None = None
    promise = ""
    with writing(output_dir, "prune") as (target, report):
        watch = Stopwatch(source, kind, ids, settings.target, max_length)
        table = watch.table([[(settings, source.depth)]], report) if timed else None
        model = load(source, kind)
        sample = batches_of([ids[i] for i in some_of(len(ids), settings.rows)], source.pad_id)
        latency = Latency(table, watch.share) if table else None
        promised = cut(model, sample, settings, latency=latency, progress=report)
        saved = save(model, source, target)
        if recover_epochs:
            recover = checked(
                Recover,
                {
                    "epochs": recover_epochs, "learning_rate": learning_rate, "batch_size": batch_size,
                    "adversarial": adversarial_settings(adversarial, kind),
                },
            )  # fmt: skip
            try:
                train_student(
                    model, load(source, kind), TrainingData(ids + further), recover, seed=seed, progress=report
                )
                saved = save(model, source, target)
            except StepError as error:
                failed = error  # the cut outlives it
        value = None if failed else metric(saved, kind, held_out, max_length)
        if timed and not failed:
            report(1.0, "measuring what was promised")
            wanted = promised.to_json()["promised_speedup"]
            got, lo, hi = watch.speedup(saved)
            promise = f"; promised {wanted:.2f}x in {runtime} {precision}, measured {got:.2f}x [{lo:.2f}, {hi:.2f}]"
    if failed:
        raise StepError(
            f"prune, recover: {failed}; {output_dir} holds the pruned model before this step; to repeat the step: "
            f"paredown distill {checkpoint} --student {output_dir} --train {train} --output-dir DIR"
        ) from failed
    say(output_dir, kind.for_rows(held_out), value, promise)


@app.command()
def trim(
    checkpoint: Source,
    train: Annotated[str, typer.Option(help="Rows whose tokens are kept; labels are not needed.")],
    output_dir: OutputDir,
    validation: Annotated[str | None, typer.Option(help="Held-out rows for the report of the change.")] = None,
    unlabeled: Unlabeled = None,
    frequent: Annotated[int, typer.Option(min=0, help="Number of most frequent tokens that are always kept.")] = 2000,
    min_count: Annotated[int, typer.Option(min=1, help="Minimum count of a token in the rows.")] = 1,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Reduce the vocabulary to the tokens of the data and the most frequent ones; this saves size, not time."""
    from paredown.compress.pruning.vocabulary import changed_share
    from paredown.compress.pruning.vocabulary import trim as cut

    kind = task_for(task, Feature.TRIM, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint, kind)
    pairs = None if kind.columns.partner else False  # whose texts, each by itself, may well stand in train
    rows, judged = (
        read_rows(kind, train, labelled=False),
        read_rows(kind, validation, labelled=pairs) if validation else None,
    )
    more = read_unlabeled_rows(kind, unlabeled) if unlabeled else None
    judged, more = kept_apart(rows, judged, more)
    texts = [*rows.texts, *(more.texts if more else ())]
    held_out = judged.texts if judged else None
    with writing(output_dir, "trim") as (target, _):
        model = load(source, kind)
        settings = checked(Trim, {"frequent": frequent, "min_count": min_count})
        before = source.plain_tokenizer_text
        tokenizer = cut(model, source.path / "tokenizer.json", [*texts, *source.prompts], settings, before)
        saved = save(model, source, target, tokenizer)
        size = saved.size_mb()
    changed = "" if held_out is None else f"; {changed_share(before, tokenizer, held_out):.2%}"
    said = f"{changed} of the held-out tokens changed" if changed else ""
    out.print(f"{output_dir}: {saved.config['vocab_size']} tokens, {size:.1f} MB{said}", soft_wrap=True)


@app.command()
def distill(  # noqa: C901
    checkpoint: Source,
    train: Annotated[str, typer.Option(help="Training rows; labels are not needed.")],
    output_dir: OutputDir,
    validation: Validation = None,
    unlabeled: Unlabeled = None,
    static: Annotated[
        bool, typer.Option("--static", help="Train a static student: token embeddings, mean pooling and a linear head.")
    ] = False,
    student: Annotated[
        str | None, typer.Option(help="Checkpoint of the student, in place of layers of the teacher.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers of the teacher to keep: a number, or a list such as 0,2,5.")
    ] = None,
    decoder_layers: Annotated[
        str | None, typer.Option(help="Decoder layers of a text-to-text student (default: as --layers).")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size of the student.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(help="Further teacher; may be given several times.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Number of epochs (default: 3, static: 6).")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate (default: 2e-4, static: 1e-3).")
    ] = None,
    batch_size: BatchSize = 32,
    temperature: Annotated[float, typer.Option(help="Temperature of the logit loss.")] = 2.0,
    hidden_weight: Annotated[float | None, typer.Option(help="Weight of the hidden-state loss.")] = None,
    relation_weight: Annotated[float, typer.Option(help="Weight of the token-relation loss.")] = 0.0,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Early-stopping patience, in evaluations on validation rows.")
    ] = None,
    quantize_aware: Annotated[bool, typer.Option(help="Use quantisation-aware training.")] = False,
    adversarial: Adversarial = None,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Knowledge distillation of a checkpoint, or of the mean logits of several teachers, into a smaller model."""
    from paredown.compress.distillation.distill import mean_scores, student_of, train_student
    from paredown.compress.distillation.static_student import initial_student
    from paredown.compress.types import TrainingData

    kind = task_for(task, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint, kind)
    others = [open_checkpoint(path, kind) for path in teacher or []]
    elsewhere = open_checkpoint(student, kind) if student else None
    if others:
        kind.require(Feature.TEACHERS, "--teacher")
    if width is not None:
        kind.require(Feature.WIDTH, "--width")
    if static:
        kind.require(Feature.STATIC, "--static")
    for other in others:
        check_teacher(kind, other, source, "--teacher")
    if elsewhere:
        check_student(kind, elsewhere, source, "--student")
    data = read_rows(kind, train, labelled=False)
    further = read_unlabeled_rows(kind, unlabeled) if unlabeled else None
    held_out, further = kept_apart(data, optional(validation, kind, source.labels), further)
    more = further.texts if further else ()
    if patience and held_out is None:
        raise InputError("--patience stops on validation: give --validation F")
    given = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "temperature": temperature}
    given |= {"patience": patience, "adversarial": adversarial_settings(adversarial, kind)}
    if static:
        if student or layers or width or hidden_weight or relation_weight or quantize_aware:
            raise InputError("--static: a student without layers takes none of the options about layers")
        settings = checked(Static, given)
    else:
        if hidden_weight is None and (width is not None or (elsewhere and not same_tokens(source, elsewhere))):
            hidden_weight = 0.0
        settings = checked(
            Distill,
            {
                "epochs": 3.0, **{key: value for key, value in given.items() if value is not None}, "student": student,
                "layers": _layers(layers), "decoder_layers": _layers(decoder_layers), "width": width,
                "hidden_weight": hidden_weight,
                "relation_weight": relation_weight, "quantize_aware": quantize_aware,
            },
        )  # fmt: skip
        if elsewhere and not same_tokens(source, elsewhere) and (settings.hidden_weight or settings.relation_weight):
            raise InputError(
                f"--student {student}: another tokenizer or image processor than the teacher's; leave hidden and "
                "relation losses out"
            )
    texts = [*data.texts, *more]
    learner = elsewhere or source
    # a teacher that reads the student's own tokens is given no more of them than it takes
    shared = min([max_length, *(t.positions for t in (source, *others) if same_tokens(t, learner))])
    ids = dataset.encode(learner.encoder(shared), data) + learner.encoder(shared).ids(list(more))

    def scores_of(lines: list[str]) -> np.ndarray | None:
        if not kind.supports(Feature.CACHED_SCORES):
            return None
        return mean_scores(
            [
                (load(t, kind), t.encoder(shared if same_tokens(t, learner) else max_length).ids(lines))
                for t in (source, *others)
            ]
        )

    with writing(output_dir, "distill") as (target, report):
        report(0.0, f"scoring {len(texts)} rows")
        model, scores = load(source, kind), scores_of(texts)
        if isinstance(settings, Static):
            pupil = initial_student(model, settings, seed)
        else:
            pupil = load(elsewhere, kind) if elsewhere else student_of(model, settings, ids)
        judged = None
        if patience and held_out is not None:
            encoder = learner.encoder(shared)
            wanted = scores_of(list(held_out.texts))
            judged = encoder.ids(held_out.texts), kind.training_targets(held_out, encoder) if wanted is None else wanted
        learned = TrainingData(ids, scores=scores, validation=judged)
        train_student(pupil, model, learned, settings, seed=seed, progress=report)
        saved = save(pupil, learner, target)
        value = metric(saved, kind, held_out, max_length)
    say(output_dir, kind.for_rows(held_out), value)


def _layers(given: str | None) -> int | list[int] | None:
    if given is None:
        return None
    try:
        return int(given) if "," not in given else [int(part) for part in given.split(",")]
    except ValueError:
        raise InputError(f"--layers {given}: a number such as 3, or a list such as 0,2,5") from None
