"""A repository of the Hugging Face Hub: the model under every name that its readers search for.

Those are transformers.js, optimum, sentence-transformers, text-embeddings-inference (TEI) and fastembed.

https://huggingface.co/docs/transformers.js/guides/dtypes,
https://sbert.net/docs/sentence_transformer/usage/efficiency.html
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.compress.models.validation import read_json
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PIXELS, reader_file
from paredown.tasks.registry import task_named

from ...hardware import importable
from ...isolation import in_child
from ..transformers_files import CONFIG, SPECIAL, TOKENIZER, without_code
from .common import only_length
from .hub_graph import CHANGES, TOKENS, VECTOR

DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8-dynamic": "q8", "int8-static": "q8"}  # those of transformers.js
SUFFIXES = {"fp16": "_fp16", "q8": "_quantized"}
VNNI = "model_qint8_avx512_vnni.onnx"  # of sentence-transformers: S8 weights, U8 activations, all 8 bits of both
SECTION = re.compile(r"(?ms)^## How to run it\n.*?(?=^## |\Z)")  # of model_card.md.jinja
REPORT = "report.html"  # the card names it
# Of the bundle's card: what a repository without self-test and requirements does not have.
OF_BUNDLES = re.compile(r"; `selftest\.py` refuses others|^\| what `requirements\.txt` installs.*\n?", re.M)
HEAD = re.compile(r"For[A-Z]\w*$")  # of an architecture's name: what optimum's classes end in too
POOLING = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}


@dataclass(frozen=True)
class Form:
    """The folder and file names of a model's format. `names(manifest)`: without the ending, the main one first."""

    folder: str
    library: str  # `library_name` of the model card
    names: Callable[[dict], Sequence[str]]


def _onnx_names(manifest: dict) -> list[str]:
    names = ["model", *(f"model{s}" for s in [SUFFIXES.get(DTYPES[manifest["precision"]])] if s)]
    full = manifest["precision"] == "int8-dynamic" and bool(manifest["isa"]["needs_one_of"])
    return [*names, VNNI.removesuffix(".onnx")] if full and manifest["answer"] in POOLED else names


def _openvino_names(manifest: dict) -> list[str]:
    names = ["openvino_model"]
    return [*names, "openvino_model_qint8_quantized"] if DTYPES.get(manifest["precision"]) == "q8" else names


POOLED = ("vector",)  # answers that sentence-transformers gives
FORMS = {
    ".onnx": Form("onnx", "transformers.js", _onnx_names),
    ".xml": Form("openvino", "openvino", _openvino_names),
}


def to_hub(bundle: Path, out: Path) -> None:
    """OUT is a repository: onnx/ or openvino/ with the model, config.json, the tokenizer, and the model card.

    Raises InputError for models that the receivers cannot call: those that generate text, of fixed shapes, in other
    formats, or without config.json; BundleError where the model does not answer in a process of its own.
    """
    manifest = read_manifest(bundle)
    form = _form(bundle, manifest)
    model = bundle / manifest["model"]
    settings = {
        name: without_code(read_json(bundle / name)) for name in (CONFIG, TOKENIZER) if (bundle / name).is_file()
    }
    config = settings[CONFIG]
    main, *others = form.names(manifest)
    (out / form.folder).mkdir()
    for file in sorted(model.parent.iterdir()):  # weights in a file beside an ONNX graph keep the name that is in it
        named = file == model or (file.stem == model.stem and model.suffix == ".xml")
        shutil.copyfile(file, out / form.folder / (f"model{file.suffix}" if named else file.name))
    pooling = None
    if manifest["answer"] in CHANGES:
        if not importable("onnx"):
            raise missing_extra("onnx", "compress")
        pooling = in_child("hub", bundle, model=str((out / form.folder / "model.onnx").absolute()))
    for file in [path for path in (out / form.folder).iterdir() if path.stem == "model"]:
        for name in others:
            shutil.copyfile(file, file.with_name(f"{name}{file.suffix}"))
        file.rename(file.with_name(f"{main}{file.suffix}"))
    licences = [path.name for path in bundle.iterdir() if path.name.startswith(("LICENSE", "NOTICE"))]
    for name in (reader_file(manifest["inputs"]), SPECIAL, REPORT, *licences):
        if (bundle / name).is_file():
            shutil.copyfile(bundle / name, out / name)
    if form.folder == "onnx":  # what a pipeline opens that is asked for no dtype
        config["transformers.js_config"] = {"dtype": DTYPES[manifest["precision"]]}
    for name, content in settings.items():
        _write(out / name, content)
    if pooling:
        _write_sentence_transformers(out, manifest, pooling)
    (out / "README.md").write_text(_card(bundle, manifest, config, form, pooling), encoding="utf-8")


def _form(bundle: Path, manifest: dict) -> Form:
    """InputError where the receivers cannot call this model."""
    suffix = Path(manifest["model"]).suffix
    if suffix not in FORMS or (suffix == ".onnx" and manifest["precision"] not in DTYPES):
        raise InputError(
            f"layout hub: for models in {' and '.join(FORMS)} files, not {manifest['runtime']} {manifest['precision']}"
        )
    if "generation" in manifest:
        raise InputError(
            f"layout hub: models for {manifest['task']} have inputs and outputs of their own here, which the receivers "
            "do not know; use another --layout"
        )
    if manifest["batch_size"] or only_length(manifest):
        raise InputError(
            "layout hub: receivers call with any number of rows and tokens, and this model takes one shape; export it "
            "without a batch size and with more than one length, or with none"
        )
    if suffix != ".onnx" and manifest["answer"] in CHANGES:
        raise InputError(
            f"layout hub: outputs of {manifest['task']} are renamed in ONNX files alone; select an onnxruntime "
            f"candidate, this one is {manifest['runtime']}"
        )
    if not (bundle / CONFIG).is_file():
        raise InputError(
            f"layout hub: {bundle / CONFIG}: missing, as in bundles of earlier versions; make the bundle again: "
            "paredown choose RUN"
        )
    return FORMS[suffix]


def _write_sentence_transformers(out: Path, manifest: dict, pooling: str) -> None:
    """The modules that give the bundle's vectors: pooled, then of length 1. Prompts and case are in tokenizer.json."""
    kinds = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(MODULES.items())
    ]
    _write(out / "modules.json", kinds)
    _write(out / "sentence_bert_config.json", {"max_seq_length": manifest["max_length"], "do_lower_case": False})
    (out / MODULES["Pooling"]).mkdir()
    modes = {f"pooling_mode_{name}": name.startswith(pooling) and name != POOLING[3] for name in POOLING}
    width = {"word_embedding_dimension": len(manifest["labels"])}
    _write(out / MODULES["Pooling"] / "config.json", width | modes | {"include_prompt": True})


def _card(bundle: Path, manifest: dict, config: dict, form: Form, pooling: str | None) -> str:
    """The bundle's own card, with the Hub's names for what reads this repository, and how it does."""
    from huggingface_hub import ModelCard

    try:
        card: Any = ModelCard.load(bundle / "README.md", ignore_metadata_errors=True)
    except (ValueError, OSError) as error:
        raise InputError(f"{bundle / 'README.md'}: not a model card ({' '.join(str(error).split())[:200]})") from None
    card.data.library_name = "sentence-transformers" if pooling else form.library
    card.data.tags = [*(card.data.tags or ()), form.folder, *(["transformers.js"] if form.folder == "onnx" else [])]
    how = f"## How to run it\n\n{how_to_run(manifest, config, form, pooling)}\n\n"
    text = SECTION.sub(lambda _: how, card.text, count=1) if SECTION.search(card.text) else f"{card.text}\n\n{how}"
    text = OF_BUNDLES.sub("", text)
    main = f"{form.folder}/{form.names(manifest)[0]}{Path(manifest['model']).suffix}"
    text = text.replace(f"`{manifest['model']}`", f"`{main}`")
    return f"---\n{card.data}\n---\n{text.rstrip()}\n"


def how_to_run(manifest: dict, config: dict, form: Form, pooling: str | None) -> str:
    """Markdown: lines to copy for each receiver that opens this repository."""
    task, name = task_named(manifest["task"]), f"OWNER/{manifest['name']}"
    head = HEAD.search(str((config.get("architectures") or [""])[0]))
    auto = head[0] if head else "ForFeatureExtraction"
    parts = []
    if form.folder == "onnx":
        kind = "feature-extraction" if pooling else task.pipeline_tag
        asked = '"a text"'
        if pooling:
            asked += f', {{ pooling: "{pooling}", normalize: true }}'
        elif manifest["answer"] == "ends":
            asked = '"a question", "a text that holds the answer"'
        elif PIXELS in manifest["inputs"]:
            asked = '"image.png"'
        parts.append(
            "In the browser or Node, with transformers.js:\n\n"
            '    import { pipeline } from "@huggingface/transformers";\n'
            f'    const model = await pipeline("{kind}", "{name}");\n'
            f"    console.log(await model({asked}));"
        )
    if pooling:
        parts.append(
            "In Python, `pip install sentence-transformers[onnx]`:\n\n"
            "    from sentence_transformers import SentenceTransformer\n"
            '    which = {"file_name": "onnx/model.onnx"}\n'
            f'    model = SentenceTransformer("{name}", backend="onnx", model_kwargs=which)\n'
            '    vectors = model.encode(["a text"])\n\n'
            f"Outputs: `{TOKENS}` (rows, tokens, {len(manifest['labels'])}), and `{VECTOR}`, its pooling, of length 1: "
            f'fastembed\'s `PoolingType.DISABLED` with `output_name="{VECTOR}"`.'
        )
    else:
        module, library, prefix = {
            "onnx": ("onnxruntime", "optimum-onnx[onnxruntime]", "ORTModel"),
            "openvino": ("intel", "optimum-intel[openvino]", "OVModel"),
        }[form.folder]
        parts.append(
            f"In Python, `pip install {library}`:\n\n"
            f"    from optimum.{module} import {prefix}{auto}\n"
            f'    model = {prefix}{auto}.from_pretrained("{name}")'
        )
    needs = manifest["isa"]["needs_one_of"]
    if needs:
        parts.append(f"On a CPU without {', '.join(needs)} its answers are worse, and none of these libraries says so.")
    return "\n\n".join(parts)


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
