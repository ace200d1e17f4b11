"""A job: a recipe whose inputs have been read and checked; names of steps and candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from paredown.compress.config import Distill, DistillationTraining, Finetune, Prune, Stage, Timed
from paredown.compress.data import dataset
from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import Certificate, divided
from paredown.compress.distillation.compatibility import check_teacher
from paredown.compress.models.architectures import EXPORTABLE
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.compress.models.model_card import origin_files
from paredown.compress.training.augmentation import recombined
from paredown.export.hardware import importable, machine, training_gpus, training_threads
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.manifest import sha256_of
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named
from paredown.tasks.rows import Rows

from .dry_run import take_longest
from .inputs import StageInputs
from .model_checks import Start, check_steps
from .progress import Report
from .recipe.schema import BASELINE, MeasureOn, Model, Recipe, Target
from .spelling import in_recipe
from .store import Done, key_of

BASE_TARGET = Target.model_validate({"runtime": "pytorch", "precision": "fp32"})
SCORES = f"{BASELINE}-scores"
ORIGIN = f"{BASELINE}-origin"  # licence and card of the checkpoint
SPLITS = ("train", "unlabeled", "validation", "test")
ROW_S = 1 / 500  # MiniLM-L6, 27 tokens a row, 2 cores with AMX
RECOVER = "-recover"  # after the name of the pruning step that it trains
PLAIN_INT8 = {name: r.SPEC.plain_int8 for name, r in RUNTIMES.items() if r.SPEC.plain_int8}


@dataclass(frozen=True)
class Step:
    """`work(out, done, report)` fills the directory `out`; `done` has the steps that `inputs["after"]` names."""

    name: str
    inputs: dict
    seconds: float  # a rough guess, for the plan that is printed
    work: Callable[[Path, Mapping[str, Done], Report], dict | None]
    takes_what_is_there: bool = False  # of the steps that it stands on those that failed are left out
    title: str = ""  # what it does, for people who watch; none: its name

    @cached_property
    def key(self) -> str:
        """Of what the step does and of the steps before it. Their names do not count: models may share their first
        steps, or be renamed, and nothing is done again."""
        return key_of({**self.inputs, "after": list(self.inputs.get("after", {}).values())})


OF_MACHINE = ("machine", "int8_isa", "engine", "table")  # inputs of steps that belong on the machine that measures


def belongs_on_machine(step: Step) -> bool:
    """Whether a step's key names something of the machine that measures: it is done there, and alone. Pruning to a time
    is: it corrects the latency table by what it times."""
    return any(step.inputs.get(name) is not None for name in OF_MACHINE)


@dataclass(frozen=True)
class Candidate:
    """One way to make the model smaller: a model's steps, a runtime and a precision."""

    model: Model
    target: Target

    @property
    def name(self) -> str:
        return f"{self.model.name}/{self.target.runtime}/{self.target.precision}"

    @property
    def step(self) -> str:
        """Name of the step that exports it."""
        return self.name.replace("/", "-")


@dataclass(frozen=True)
class Job:
    """A recipe whose inputs have been read and checked: everything that can be known before minutes are spent."""

    recipe: Recipe
    task: Task
    checkpoint: Checkpoint
    train: Rows
    validation: Rows
    test: Rows | None
    unlabeled: Rows | None
    teachers: tuple[Checkpoint, ...]  # the checkpoint itself, then the recipe's further ones
    notes: tuple[str, ...] = ()  # what was left out or held out of the data, and why
    certificate_split: Certificate | None = None  # what `test` is; None where there is none
    data_digests: Mapping[str, str] = field(default_factory=dict)  # split -> sha256 of its file when it was read
    machine: Mapping[str, Any] = field(default_factory=machine)  # that measures, and that the result is for
    threads: int = field(default_factory=training_threads)  # of training and scoring
    gpus: Sequence[str] = field(default_factory=training_gpus)  # that train and score; none: the CPU does
    row_s: float = ROW_S  # seconds that the checkpoint takes for a row, in a batch

    @property
    def trained_on(self) -> dict[str, Any]:
        """What the key of a step names that trains or scores: its result on a GPU has other bits than a CPU's."""
        kinds = list(dict.fromkeys(self.gpus[: self.recipe.training_processes]))  # a process takes one
        return {"threads": self.threads, **({"gpus": kinds} if kinds else {})}

    @property
    def models(self) -> list[Model]:
        return [Model(name=BASELINE), *self.recipe.models]

    @property
    def candidates(self) -> list[Candidate]:
        """Every model in every target; the checkpoint itself in PyTorch is always among them, and first."""
        targets = [BASE_TARGET, *(t for t in self.recipe.targets if t != BASE_TARGET)]
        wanted = [Candidate(model, target) for model in self.models for target in targets]
        wanted += [Candidate(self.models[0], target) for target in (*self._unchanged, *self.compared_with)]
        keep_pytorch = BASE_TARGET in self.recipe.targets
        return [
            c
            for c in wanted
            if (c.target != BASE_TARGET or keep_pytorch or c.model.name == BASELINE)
            and (c.model.cascade is None or RUNTIMES[c.target.runtime].SPEC.cascade)
        ]

    @property
    def _unchanged(self) -> list[Target]:
        """A target in fp32 for the checkpoint itself where the recipe has none: it changes no answer, so that a run
        ends with a bundle."""
        others = [target for target in self.recipe.targets if target != BASE_TARGET]
        if any(target.precision == "fp32" for target in others):
            return []
        return [
            Target(runtime=target.runtime)
            for target in others
            if "fp32" in RUNTIMES[target.runtime].precisions(self.task)
        ][:1]

    @property
    def compared_with(self) -> list[Target]:
        """Plain INT8 of the checkpoint where the recipe has none: what other tools give in minutes. For comparison."""
        on_cpu = {target.runtime: target for target in self.recipe.targets if target.runtime in PLAIN_INT8}
        if any(target.precision.startswith("int8") for target in self.recipe.targets if target.runtime in PLAIN_INT8):
            return []
        return [
            Target.model_validate({"runtime": runtime, "precision": precision})
            for runtime, precision in PLAIN_INT8.items()
            if runtime in on_cpu and precision in RUNTIMES[runtime].precisions(self.task)
        ][:1]

    @property
    def engine(self) -> Engine:
        """The recipe's `tensorrt`, with its lengths and the batch sizes that are measured where it names none."""
        wanted = self.recipe.tensorrt
        sizes = wanted.batch_sizes or sorted({1, self.recipe.latency.batch_size})
        return wanted.model_copy(
            update={"batch_sizes": sizes, "lengths": wanted.lengths or self.recipe.lengths or None}
        )

    def measured_on(self, one: MeasureOn | None) -> Job:
        """The job for one of the machines that its recipe names."""
        return replace(self, recipe=self.recipe.model_copy(update={"measure_on": one}))

    def inputs(self, checkpoint: Checkpoint, train: Rows | None = None) -> StageInputs:
        """What a stage works on, that starts from `checkpoint`. `train`: its training rows, where they are not all."""
        return StageInputs(
            self.task, checkpoint, self.checkpoint.labels, train or self.train, self.validation, self.unlabeled,
            self.recipe.max_length, self.recipe.seed, tuple(self.recipe.lengths), self.recipe.training_processes,
        )  # fmt: skip

    @cached_property
    def lessons(self) -> Rows:
        """The training rows that students learn from."""
        count = self.recipe.data.distillation_rows
        return self.train.sample(count) if count else self.train

    def rows_for(self, settings: object) -> Rows:
        """The training rows that a stage with these settings works on."""
        return self.lessons if isinstance(settings, DistillationTraining | Prune) else self.train

    @property
    def learned(self) -> int:
        """Rows that students learn from: training rows and the unlabelled ones."""
        return len(self.lessons) + (len(self.unlabeled) if self.unlabeled else 0)

    def rows_of(self, settings: DistillationTraining) -> int:
        """How many of these one lesson uses."""
        return self.learned - (len(self.lessons) if settings.learn_from == "unlabeled" else 0)

    def model(self, name: str) -> Model:
        return next(model for model in self.models if model.name == name)


def recombines(task: Task, train: Rows) -> bool:
    """Whether texts made of parts of two training texts are texts of the task."""
    return task.supports(Feature.RECOMBINE) and not any(PAIR in text for text in train.texts)


def _with_recombined(task: Task, train: Rows, unlabeled: Rows | None, recipe: Recipe) -> Rows:
    """The unlabelled rows with `data.recombined` further ones. InputError where a task does not read whole texts."""
    if not recombines(task, train):
        raise InputError(f"data.recombined: texts of {task.name} are not made of parts of two; leave it out")
    made = tuple(recombined(train.texts, recipe.data.recombined, recipe.seed))
    if unlabeled is None:
        return Rows(f"{train.source}, recombined", made, None, train.names)
    return replace(unlabeled, texts=(*unlabeled.texts, *made))


def prepare(recipe: Recipe, *, try_models: bool = True, measures: bool = True) -> Job:
    """Open the checkpoint, read all data, and check what can be checked now. Raises InputError. `try_models`: load all
    models too, where PyTorch is installed, and run each on a text of the longest input that it is promised to take.
    `measures`: the runtimes of the targets have to be here.
    """
    if not importable("torch"):  # whatever the targets are: every run trains or exports
        raise missing_extra("torch", "compress,cpu")
    task = task_named(recipe.task)
    checkpoint = replace(open_checkpoint(recipe.checkpoint, task), max_new_tokens=recipe.max_new_tokens)
    origin_files(checkpoint.path)  # refused now where a link leads out
    checkpoint.check_generation()  # refused now where its settings are wrong
    read = partial(read_rows, task, text=recipe.data.text, names=checkpoint.labels)
    train = read(recipe.data.train, label=recipe.data.label)
    validation = read(recipe.data.validation, label=recipe.data.label, group=recipe.data.groups)
    test = read(recipe.data.test, label=recipe.data.label) if recipe.data.test else None
    task = task.for_rows(validation, test, train)
    unlabeled = None
    if recipe.data.unlabeled:
        unlabeled = dataset.read_unlabeled(
            recipe.data.unlabeled, columns=task.columns, text=recipe.data.text, label=recipe.data.label
        )
    paths = {split: Path(source) for split, source in sources_of(recipe).items()}
    digests = {split: sha256_of(path) for split, path in paths.items() if path.is_file()}  # now: they may change later
    splits = divided(train, validation, test, unlabeled)
    validation, test, unlabeled = splits.validation, splits.test, splits.unlabeled
    if recipe.data.recombined:
        unlabeled = _with_recombined(task, train, unlabeled, recipe)
    kind = checkpoint.config.get("model_type", "")
    known = EXPORTABLE[task.graph]
    if kind not in known:
        raise InputError(
            f"{checkpoint.path}: cannot export a '{kind}' model for {task.name} yet; supported: {', '.join(known)}"
        )
    start = Start(checkpoint, task, recipe.max_length, unlabeled=unlabeled is not None)
    for model in recipe.models:
        check_steps(model, start, in_recipe(model.name))
    if not len(train.begins) and any(isinstance(s, Finetune) for m in recipe.models for s in chain_of(m).values()):
        raise InputError(f"{train.source}: finetune learns from pairs, and these are single texts")
    teachers = (checkpoint, *(_teacher(source, checkpoint, task, recipe.max_length) for source in recipe.teachers))
    encoder = checkpoint.encoder(recipe.max_length)
    for rows in (train, validation, test):
        if rows is not None:
            dataset.require_two_classes(rows, checkpoint.labels)
            dataset.check_known(encoder, rows)
    if measures:
        check_installed(recipe)
    if try_models and importable("torch") and importable("transformers"):
        names = {
            settings.student
            for model in recipe.models
            for settings in chain_of(model).values()
            if isinstance(settings, Distill) and settings.student is not None
        }
        students = [open_checkpoint(name).for_task(task) for name in sorted(names)]
        take_longest([*teachers, *students], task, checkpoint, recipe, validation)
    return Job(
        recipe, task, checkpoint, train, validation, test, unlabeled, teachers, splits.notes, splits.certificate,
        digests,
    )  # fmt: skip


def sources_of(recipe: Recipe) -> dict[str, str]:
    """The file or data set that the recipe names for each split, and for those of each update."""
    found = {split: source for split, source in recipe.data.model_dump().items() if split in SPLITS and source}
    for number, entry in enumerate(recipe.adapt, start=1):
        new = {} if entry.update is None else entry.update.model_dump(include={"new", "new_validation", "new_test"})
        found |= {f"adapt-{number} {split}": source for split, source in new.items() if source}
    return found


def check_installed(recipe: Recipe) -> None:
    """InputError for a runtime, or captum, that the recipe needs and that is not installed."""
    for target in recipe.targets:
        reason = RUNTIMES[target.runtime].available(building=True)
        if reason is not None:
            raise InputError(f"targets: {reason} (or remove the target)")
    if recipe.explain_rows and not importable("captum"):
        raise InputError(
            "explain_rows: 'captum' is not installed; it comes with: pip install 'paredown[explain]' (or set it to 0)"
        )


def _teacher(source: str, checkpoint: Checkpoint, task: Task, max_length: int) -> Checkpoint:
    teacher = open_checkpoint(source, task)
    check_teacher(task, teacher, checkpoint, "teachers", max_length)
    return teacher


def parts_of(job: Job, candidate: Candidate) -> tuple[Candidate, Candidate]:
    """The quick model of a cascade and the one behind it, in the same target."""
    names = candidate.model.cascade
    assert names is not None
    return Candidate(job.model(names.first), candidate.target), Candidate(job.model(names.then), candidate.target)


def models_of(job: Job, candidate: Candidate) -> list[Candidate]:
    """The candidate itself, or the two, three or more models of a cascade, the quickest first."""
    if candidate.model.cascade is None:
        return [candidate]
    first, then = parts_of(job, candidate)
    return [first, *models_of(job, then)]


def chain_of(model: Model) -> dict[str, Stage]:
    """A model's own steps by name, first to last. Training after pruning is a step of its own, so that its failure
    leaves the pruned model."""
    chain: dict[str, Stage] = {}
    for number, step in enumerate(model.steps, start=1):
        stage, settings = step.stage
        name = f"{model.name}-{number}-{stage}"
        chain[name] = settings
        if isinstance(settings, Prune) and settings.recover is not None:
            chain |= {name: settings.model_copy(update={"recover": None}), name + RECOVER: settings.recover}
    return chain


def rows_digest(rows: Rows | None) -> str | None:
    return None if rows is None else rows.digest


def graph_name(model: Model) -> str:
    return f"{model.name}-graph"


def table_name(target: Timed) -> str:
    return f"{BASELINE}-table-{target.runtime}-{target.precision}-b{target.batch_size}"


def attribution_name(model: str) -> str:
    return f"{model}-attributions"


def evaluation_name(candidate: Candidate) -> str:
    return f"{candidate.step}-evaluate"


def further_name(candidate: Candidate) -> str:
    return f"{candidate.step}-further"


def sitting_name(number: int) -> str:
    """The step of a sitting; `number` from 0."""
    return f"measure-{number + 1}"


def made_of(job: Job, candidate: Candidate, keys: Mapping[str, str]) -> str:
    """A key of a candidate's model before quantisation, its runtime and its precision: of a cascade those of its models
    and how much each may lose. `keys`: of the steps of the plan, by name."""

    def model_of(model: Model) -> object:
        if model.cascade is None:
            return keys[graph_name(model)]
        parts = [model_of(job.model(name)) for name in (model.cascade.first, model.cascade.then)]
        return [model.cascade.max_drop, *parts]

    return key_of({"model": model_of(candidate.model), **candidate.target.model_dump()})


def has_scores(job: Job | StageInputs, settings: Stage) -> bool:
    """It learns from its teacher's logits, which are made once for all students; a decoder's are too many to keep."""
    return isinstance(settings, DistillationTraining) and job.task.supports(Feature.CACHED_SCORES)
