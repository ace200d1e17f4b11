"""What several runtimes share: availability, the end of an export, opening a model file as bundles do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from paredown.compress.models.validation import TRUNCATE
from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError, StepError, missing_extra, one_line
from paredown.runtime.manifest import sha256_of
from paredown.runtime.model_scan import check_model_file
from paredown.runtime.seq2seq_decoding import writer
from paredown.runtime.session import CannotRunHere, Session, open_session, padded

from ..artifact import MANIFEST, Artifact, marks_of
from ..hardware import gpus, importable
from .base import ExportJob, RuntimeSpec

ONNX_FILE = "model.onnx"


def why_unavailable(spec: RuntimeSpec, building: bool, load: Callable[[], object] = lambda: None) -> str | None:
    """`Runtime.available` of a spec. `load` loads the runtime's libraries: ImportError, OSError or CannotRunHere where
    they or the hardware are missing; called last, when a model is to run."""
    if not importable(spec.module):
        return str(missing_extra(spec.module, spec.extra))
    if building:
        if spec.builds_on_gpu and not gpus():
            return (
                f"{spec.name} builds an engine on the NVIDIA GPU that it is for, and none is here (nvidia-smi lists "
                "none); build there, or use tensorrt_rtx, which builds without a GPU"
            )
        return None
    try:
        load()
    except CannotRunHere as reason:
        return str(reason)
    except (ImportError, OSError):
        return str(missing_extra(spec.module, spec.extra))
    return None


@contextmanager
def conversion(job: ExportJob, converter: str) -> Iterator[None]:
    """What an exporter raises for a model that it cannot convert, as a StepError of one line: each has classes of its
    own."""
    try:
        yield
    except (StepError, OSError, MemoryError):
        raise
    except Exception as error:
        kind = job.checkpoint.config.get("model_type", "")
        raise StepError(f"{converter} cannot convert this '{kind}' model: {one_line(error)}") from error


def write_graphs(job: ExportJob, write: Callable[[ExportJob, str], dict]) -> tuple[list[str], dict]:
    """`write(part, name)` writes each graph of the model and returns what it found: `part` is the job of this graph,
    `name` that of its file, without the suffix. Returns the names, the model's first, and the artefact's details.
    """
    from ..onnx.forms import FORMS

    form, int8 = FORMS[job.task.graph], job.precision in ("int8-dynamic", "int8-static")
    graphs = form.graphs(job.graph, job.checkpoint, job.calibration if int8 else (), job.evaluator)
    found = {
        graph.name: write(
            replace(job, plain=graph.plain, calibration=graph.calibration, evaluator=graph.evaluator), graph.name
        )
        for graph in graphs
    }
    return list(found), form.details(found)


def finish_artifact(job: ExportJob, spec: RuntimeSpec, files: tuple[str, ...], details: dict) -> Artifact:
    """Finish an exported directory: config and tokenizer or preprocessor beside the model, and artifact.json.

    `files`: names inside `job.out`, the model first. `details`: what was found while exporting.
    """
    from ..onnx.forms import FORMS

    checkpoint, task = job.checkpoint, job.task
    encoder = checkpoint.encoder(job.max_length)
    window = {TRUNCATE: list(checkpoint.truncation)} if checkpoint.truncation else {}
    checkpoint.copy_to(job.out)
    encoder.write(job.out)
    return Artifact(
        path=job.out,
        name=f"{spec.name}-{job.precision}",
        task=task.name,
        runtime=spec.name,
        precision=job.precision,
        files=files,
        inputs=task.inputs,
        outputs=(task.output,),
        labels=checkpoint.labels,
        max_length=encoder.max_length,
        pad_id=checkpoint.pad_id,
        source=checkpoint.digest,
        details=details | marks_of(encoder) | window,
        generation=FORMS[task.graph].generation(checkpoint, files),
    ).write()


def open_as_bundles_do(artifact: Artifact, threads: int, spec: RuntimeSpec) -> Session:
    """`Runtime.open` through `runtime.session`, which is also what a bundle's self-test and server run.

    InputError when the runtime's package is missing, the model file may not be opened, or an engine is not the one that
    was built; CannotRunHere.
    """
    model, rules = artifact.path / artifact.files[0], dict(artifact.generation or {})
    models = [model, *([artifact.path / rules.pop("decoder")] if artifact.halves else [])]
    built = artifact.details.get("engine", {}).get("sha256")
    if spec.engine and sha256_of(model) != built:  # executable code: only the very bytes that were built
        raise InputError(f"{model}: not the engine that {MANIFEST} was written for; build it again where it came from")
    for file in models:
        try:
            check_model_file(file, spec.name)
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: {error}") from None
    try:
        session, *decoder = (open_session(file, spec.name, artifact.precision, threads) for file in models)
    except ImportError as error:
        raise missing_extra(error.name or spec.module, spec.extra) from None
    if decoder:
        return writer(session, decoder[0], rules)
    if rules:
        return Decoder(session, rules)
    if artifact.lengths or artifact.batch_size:
        return padded(session, artifact.lengths, artifact.pad_id, artifact.batch_size)
    return session
