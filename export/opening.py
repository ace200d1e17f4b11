"""An artefact opened on this machine, whatever its runtime. Without torch, but for the runtime `pytorch`."""

from __future__ import annotations

import hashlib

from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.model_scan import check_model_file
from paredown.runtime.seq2seq_decoding import writer
from paredown.runtime.session import ENGINES, Session, open_session, padded

from .artifact import EXTRA, MANIFEST, Artifact


def open_artifact(artifact: Artifact, threads: int) -> Session:
    """A session on this machine; CannotRunHere when it lacks what the model needs.

    InputError when the runtime's package is missing, or a TensorRT engine is not the one that was built.
    """
    if artifact.runtime == "pytorch":
        from .runtimes.pytorch import open_pytorch

        return open_pytorch(artifact.path, artifact.task, threads, artifact.generation)
    model, rules = artifact.path / artifact.files[0], dict(artifact.generation or {})
    models = [model, *([artifact.path / rules.pop("decoder")] if artifact.halves else [])]
    if artifact.runtime in ENGINES:  # executable code: only the very bytes that were built
        with model.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != artifact.details.get("engine", {}).get("sha256"):
            raise InputError(
                f"{model}: not the engine that {MANIFEST} was written for; build it again where it came from"
            )
    for file in models:
        try:
            check_model_file(file, artifact.runtime)
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: {error}") from None
    try:
        session, *decoder = (open_session(file, artifact.runtime, artifact.precision, threads) for file in models)
    except ImportError as error:
        raise missing_extra(error.name or artifact.runtime, EXTRA.get(artifact.runtime, "cpu")) from None
    if decoder:
        return writer(session, *decoder, **rules)
    if rules:
        return Decoder(session, rules)
    if artifact.lengths or artifact.batch_size:
        return padded(session, artifact.lengths, artifact.pad_id, artifact.batch_size)
    return session
