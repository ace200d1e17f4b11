"""Loads and saves checkpoints: directories that transformers reads, plus structure.json where layers were pruned
unevenly.

`open_checkpoint` checks it without torch and refuses what may not be loaded: pickles (CVE-2025-32434), remote code
(CVE-2026-4372), truncated weights. `load` and `save` are exact: the logits after a round trip are the same bits.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.runtime.answers import ANSWERS
from paredown.runtime.errors import InputError, StepError, missing_extra
from paredown.runtime.preprocessor import PIXELS, Preprocessor, reader_file
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import TASKS

from .advice import set_key, write_tokenizer
from .architectures import CONVOLUTIONAL, FAMILIES, SEQ2SEQ, STATIC, check_openable
from .checkpoint import STRUCTURE, TOKENIZER_FILES, Checkpoint, copy_file
from .generation_config import needs_end, tell_rules, without_tokenizer
from .model_card import CARD, inherit, origin_files
from .sentence_transformers import FILES as SENTENCE_FILES
from .sentence_transformers import pooling_of
from .tokenizer_settings import agree, check_vocabulary
from .transformers4 import for_transformers_4
from .validation import TRUNCATE, WEIGHTS, find_weights, no_adapter, read_config, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_checkpoint(source: str | Path, task: Task | None = None, *, stand_in: bool = False) -> Checkpoint:
    """Check a checkpoint directory (or fetch a hub id) without importing torch.

    With `task`, its head must be there too. Raises InputError naming the file and the way to mend it.
    """
    path = Path(source)
    if not path.exists():
        path = _fetch(str(source))
    if not path.is_dir():
        raise InputError(f"{path}: a checkpoint is a directory with config.json and {WEIGHTS}")
    no_adapter(path)
    config = read_config(path / "config.json")
    architecture = (config.get("architectures") or ["none"])[0]
    weights = find_weights(path, architecture)
    checkpoint = Checkpoint(path, config, weights)
    checkpoint = checkpoint if task is None else checkpoint.for_task(task)
    if task is not None and not checkpoint.has_head(task):
        missing = task.missing_setting(checkpoint.architecture, config)
        if missing is not None:
            key, value, meaning = missing
            raise InputError(
                f"{path / 'config.json'}: it does not say that {meaning}; if the model was trained for that, say so: "
                f"{set_key(path / 'config.json', key, value)}"
            )
        heads = (t for t in TASKS.values() if not t.pools)  # any encoder gives vectors
        other = next((t.name for t in heads if checkpoint.has_head(t)), None)
        if other is not None:
            raise InputError(
                f"{path / 'config.json'}: '{checkpoint.architecture}' is made for {other}, not {task.name}; give "
                f"--task {other} (in a recipe: task: {other})"
            )
        raise InputError(
            f"{path / 'config.json'}: architectures is '{checkpoint.architecture}', but {task.name} needs a head that "
            f"ends in {_either(task.heads)}; fine-tune it first: paredown finetune {path} --task {task.name} --train F "
            "--validation F"
        )
    inputs = checkpoint.inputs if task is None else task.inputs
    images, file = PIXELS in inputs, path / reader_file(inputs)
    family = config.get("model_type", "")
    if task is not None:
        check_openable(path, family, task)
    if not file.is_file():
        without_tokenizer(path, family)
        command = None if images else write_tokenizer(path)
        raise InputError(
            f"{path}: no {file.name}; write it with: {command}"
            if command
            else f"{path}: no {file.name}, and nothing that it could be made of (the files of AutoTokenizer, or of "
            "AutoImageProcessor for images): copy it from the model that this one was fine-tuned from"
        )
    try:
        encoder = checkpoint.encoder()
    except InputError:
        raise
    except Exception as error:  # tokenizers raises the bare class; a preprocessor may hold anything
        kind = "preprocessor that is known here" if images else "tokenizer"
        raise InputError(f"{file}: not a {kind} ({error}); is the download whole?") from None
    if not images and not stand_in:
        check_vocabulary(path, config, encoder.tokenizer)
    for check in () if task is None else OPENING_CHECKS.get(task.graph, ()):
        check(checkpoint, encoder)
    return checkpoint


def _ends_texts(checkpoint: Checkpoint, encoder: Preprocessor) -> None:
    needs_end(checkpoint.path, encoder, checkpoint.generation)


OPENING_CHECKS = {"seq2seq": (_ends_texts,)}  # by `Task.graph`


def _either(heads: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in heads)


def load(checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
    """The model in float32, evaluation mode, on the CPU, exactly as saved; no code of the checkpoint's runs.

    Raises InputError when a weight is missing, does not fit or is not finite.
    """
    torch, transformers = _libraries()
    from .loaded_weights import compare

    auto = getattr(transformers, task.auto_class)
    path = checkpoint.path
    kind = checkpoint.config.get("model_type", "")
    if kind == STATIC:
        from . import static_embedding as static_model  # noqa: F401 - makes its architecture known to transformers
    known = FAMILIES.get(kind)
    attention = known.attention if known else "eager" if kind in CONVOLUTIONAL else None  # None: the fastest it has
    if (path / STRUCTURE).is_file():
        from safetensors.torch import load_file

        from .structure import Structure, reshape

        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
        model = auto.from_config(config, trust_remote_code=False, attn_implementation=attention)
        model = _told(model, checkpoint, task)
        reshape(model, Structure.from_json(read_json(path / STRUCTURE), str(path / STRUCTURE)))
        try:
            model.load_state_dict(_whole(model, load_file(path / WEIGHTS)), strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: {WEIGHTS} and {STRUCTURE} do not belong together: {reason}") from None
    else:
        quiet = transformers.utils.logging
        level = quiet.get_verbosity()
        quiet.set_verbosity_error()
        try:
            model, report = auto.from_pretrained(
                path,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,  # `compare` names them
                output_loading_info=True,
                **_without_nulls(path),
            )
        except Exception as error:  # shapes, dtypes, configs: from_pretrained has a class for each
            raise InputError(f"{path}: does not load: {' '.join(str(error).split())[:300]}") from None
        finally:
            quiet.set_verbosity(level)
        compare(report, model, path / WEIGHTS, new_head=False, vector=task.pools)
        model = _told(model, checkpoint, task)
    if kind not in (*FAMILIES, *SEQ2SEQ, *CONVOLUTIONAL, STATIC):
        _warn_of_padding(model.eval(), checkpoint, task)
    return model.eval()


def _warn_of_padding(model: PreTrainedModel, checkpoint: Checkpoint, task: Task) -> None:
    """Say that the answer to a row depends on the longer rows beside it: XLNet reads a row's last token, which is
    padding here, and FNet has no attention mask."""
    from .inference import forward

    encoder = checkpoint.encoder()
    if encoder.shape:  # images have no padding
        return
    compared = ANSWERS[task.answer].compared
    ids = encoder.ids(["a", " ".join(["an ordinary sentence"] * 4)])
    probed = copy.deepcopy(model)  # BigBird changes its attention for good when it sees a short text
    try:
        both, alone = (forward(probed, encoder.pad(rows))[task.output][..., :compared] for rows in (ids, ids[:1]))
    except (RuntimeError, ValueError, IndexError):  # of a length that it does not take: its rows will tell
        return
    apart = abs(both[0][: len(alone[0])] - alone[0]).max()
    if apart > 0.01 * abs(both).max():
        logging.getLogger("paredown").warning(
            "%s: answers of a '%s' model change with the padding of a batch, by %.2g for a row of %d tokens beside one "
            "of %d: its scores, also as a teacher, are not those of rows alone", checkpoint.path,
            checkpoint.config["model_type"], apart, len(ids[0]), len(ids[1]),
        )  # fmt: skip


def save(
    model: PreTrainedModel, source: Checkpoint, out: Path, tokenizer_json: str | None = None, *, stand_in: bool = False
) -> Checkpoint:
    """Write `model` to the directory `out` with the tokenizer of `source`; `load` gives the same bits back.

    `tokenizer_json`: the text of another tokenizer in its place, with the special tokens of `source`. `stand_in`: of a
    model that is timed and asked nothing, whose embedding has rows for some of the tokens alone. Raises StepError when
    a weight is not finite; nothing is written then.
    """
    from .output_kinds import not_finite

    broken = not_finite(model)
    if broken is not None:
        raise StepError(f"'{broken}' has values that are not finite; the model is not saved")
    out.mkdir(parents=True, exist_ok=True)
    with _disk_errors(out):
        _write_weights(model, out)
    beside = SENTENCE_FILES if type(model).__name__.endswith(TASKS["sentence-embedding"].heads) else ()
    licences = [path.name for path in origin_files(source.path) if path.name != CARD]
    for name in (*TOKENIZER_FILES, *licences, *beside):
        if (source.path / name).is_file():
            copy_file(source.path, out, name)
    inherit(source.path, out)
    if tokenizer_json is not None:
        _write_tokenizer(out, tokenizer_json)
    for_transformers_4(out)
    _set_modes(out)
    return open_checkpoint(out, stand_in=stand_in)


def _write_weights(model: PreTrainedModel, out: Path) -> None:
    from .structure import described_by_config, structure_of

    model.save_pretrained(out)
    if model.config.model_type in FAMILIES and not described_by_config(model):
        from safetensors.torch import save_file

        (out / STRUCTURE).write_text(json.dumps(structure_of(model).to_json(), indent=2) + "\n")
        weights = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(model.state_dict().items())}
        once = {name: tensor.contiguous() for name, tensor in weights.values()}  # a tied one under its first name
        save_file(once, out / WEIGHTS, metadata={"format": "pt"})  # the names that `load` will ask for


@contextmanager
def _disk_errors(where: Path) -> Iterator[None]:
    """safetensors raises a class of its own for what the system refuses, such as a full disk: OSError instead."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(where)) from error


def _set_modes(out: Path) -> None:
    """Every file as readable as a new one is here: safetensors writes its own for the owner alone."""
    probe = out / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in out.iterdir():
        if file.is_file():
            file.chmod(mode)


def _whole(model: PreTrainedModel, weights: dict) -> dict:
    """The weights of a file, and those that the model shares with one of them under another name."""
    own = model.state_dict()
    shared = {tensor.data_ptr(): weights[name] for name, tensor in own.items() if name in weights}
    return {name: shared[tensor.data_ptr()] for name, tensor in own.items() if tensor.data_ptr() in shared} | weights


def _write_tokenizer(out: Path, tokenizer_json: str) -> None:
    """tokenizer.json, and the other files of a tokenizer brought in line with it."""
    (out / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    for name in ("vocab.txt", "added_tokens.json"):  # numbers of the tokens before they were trimmed
        (out / name).unlink(missing_ok=True)
    path = out / "tokenizer_config.json"
    if path.is_file():
        settings = read_json(path)
        settings.pop("added_tokens_decoder", None)  # numbers of the tokens as they were
        path.write_text(json.dumps(settings, indent=2) + "\n")


def with_new_head(checkpoint: Checkpoint, task: Task, labels: tuple[str, ...], seed: int) -> PreTrainedModel:
    """The checkpoint's encoder under a fresh head for `labels`: what fine-tuning a base model starts from. Vectors need
    no head."""
    task.require(Feature.NEW_HEAD, f"{checkpoint.path}: '{checkpoint.architecture}'")
    torch, transformers = _libraries()
    from .loaded_weights import compare

    torch.manual_seed(seed)
    quiet = transformers.utils.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()
    head = task.new_head(labels)
    try:
        model, report = getattr(transformers, task.auto_class).from_pretrained(
            checkpoint.path,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **(_without_nulls(checkpoint.path, **head) or head),
        )
    except Exception as error:  # shapes, dtypes, configs: from_pretrained has a class for each
        raise InputError(f"{checkpoint.path}: does not load: {' '.join(str(error).split())[:300]}") from None
    finally:
        quiet.set_verbosity(level)
    compare(report, model, checkpoint.path / WEIGHTS, new_head=True, vector=task.pools)
    return _told(model, checkpoint, task)


def _give_plain_outputs(model: PreTrainedModel) -> None:
    """Undo what a config may say of how outputs are given and computed, which changes no number of them: as a tuple,
    with every layer's beside them, or in chunks of rows that have to divide the length."""
    for key, value in {"return_dict": True, "output_hidden_states": False, "output_attentions": False}.items():
        setattr(model.config, key, value)
    model.config.chunk_size_feed_forward = 0
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            setattr(module, "chunk_size_feed_forward", 0)  # noqa: B010 - torch types attributes as modules


def _without_nulls(path: Path, **more: object) -> dict:
    """`config` for from_pretrained where config.json has a null that transformers does not read as absent; else
    nothing. `more`: what the config is to say beside."""
    from transformers import CONFIG_MAPPING

    raw = read_json(path / "config.json")
    if raw.get("auto_map", "") is not None:
        return {}
    raw = {key: value for key, value in raw.items() if key != "auto_map"}
    return {"config": CONFIG_MAPPING[raw["model_type"]].from_dict(raw, **more)}


def _told(model: PreTrainedModel, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
    """The model, its weights finite; of a task that reads two texts, one that tells them apart; of one that finds
    answers, with one output; of one that asks for vectors, with that of a whole text; of one that gives texts, one
    that knows how long; truncated as its config says."""
    from .output_kinds import not_finite

    if PIXELS not in checkpoint.inputs:
        agree(checkpoint.path, checkpoint.config, checkpoint.plain_tokenizer_text)
    broken = not_finite(model)
    if broken is not None:
        where = checkpoint.weights[0] if len(checkpoint.weights) == 1 else checkpoint.path
        raise InputError(
            f"{where}: '{broken}' has values that are not finite (NaN, infinity); the model is broken: take the "
            "checkpoint from before its training failed"
        )
    _give_plain_outputs(model)
    for name in task.adapters:
        ADAPTERS[name](model, checkpoint)
    if checkpoint.truncation:
        task.require(Feature.TRUNCATE, f"{checkpoint.path / 'config.json'}: '{TRUNCATE}'")
        from .truncation import apply_truncation

        apply_truncation(model)
    return model


def _pool(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    from .pooling import embed

    embed(model, pooling_of(checkpoint.path))


def _generate(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    tell_rules(model, checkpoint.generation)


def _join_ends(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    from .output_kinds import join_ends

    join_ends(model)


def _tell_types(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    from .token_types import tell_types

    tell_types(model, checkpoint.encoder())


# By the names in `Task.adapters`: each changes the loaded model in place.
ADAPTERS = {"pooling": _pool, "generation": _generate, "joined_ends": _join_ends, "token_types": _tell_types}


def _libraries():
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra(error.name or "torch", "compress") from None
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def _fetch(name: str) -> Path:
    """A hub id, fetched by huggingface_hub; only files that cannot carry code."""
    parts = name.split("/")
    if name.startswith((".", "/", "~")) or not 1 <= len(parts) <= 2 or not all(parts):
        raise InputError(f"{name}: no such directory")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(f"{name}: no such directory (and no huggingface_hub to fetch it with)") from None
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "LICENSE*", "NOTICE*", "README.md"],
            )
        )
    except Exception as error:  # offline, unknown, gated: each its own class in that library
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{name}: no such directory here, and the hub did not give it: {reason}") from None
