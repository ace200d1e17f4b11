"""Shell commands that repair a checkpoint directory; error messages name them, and tests run them. Without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

CONVERTIBLE = ("vocab.txt", "vocab.json", "*.model")  # what AutoTokenizer makes a tokenizer.json of
WEIGHTS_AND_MORE = (
    "*.bin", "*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.index.json", "*.h5", "*.msgpack", "*.onnx", "onnx",
    "openvino", "adapter_*", "checkpoint-*", "runs", ".*",
)  # fmt: skip
AUTO = {  # task_type of an adapter -> the class of its base model
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}


def python(code: str) -> str:
    """A shell command that runs `code`; double quotes around it where nothing in it means more to a shell."""
    return f'python -c "{code}"' if not set('"$`\\!') & set(code) else f"python -c {shlex.quote(code)}"


def beside(path: Path, word: str) -> Path:
    """A directory next to a checkpoint's that does not exist yet."""
    path = path if path.name else path.resolve()
    names = (f"{path.name}-{word}{number}" for number in ("", *map(str, range(2, 100))))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def write_again(path: Path, architecture: str, word: str) -> str:
    """Load a checkpoint with its own class and save it to a directory beside it, with all that is not weights."""
    new = str(beside(path, word))
    return python(
        f"from transformers import {architecture if architecture != 'none' else 'AutoModel'} as M; "
        f"m = M.from_pretrained({str(path)!r}, dtype='auto'); {_copied(path, new)}"
        f"m.save_pretrained({new!r}, max_shard_size='100GB')"
    )


def _copied(path: Path, new: str) -> str:
    """Statements that copy what lies beside weights, as it is: a tokenizer that is loaded and saved may be another one
    (a BertTokenizer adds its own special tokens). Only where there is no tokenizer.json yet, one is made."""
    copied = f"import shutil as s; s.copytree({str(path)!r}, {new!r}, ignore=s.ignore_patterns{WEIGHTS_AND_MORE}); "
    if not (path / "tokenizer.json").is_file() and any(any(path.glob(pattern)) for pattern in CONVERTIBLE):
        made = f"T.from_pretrained({new!r}).save_pretrained({new!r}); "
        return f"from transformers import AutoTokenizer as T; {copied}{made}"
    return copied


def write_tokenizer(path: Path) -> str | None:
    """What writes tokenizer.json where the files of a slow tokenizer lie; None where there are none to make it of."""
    if not any(any(path.glob(pattern)) for pattern in CONVERTIBLE):
        return None
    first = ""
    if any(path.glob("*.model")):
        needed = [name for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf"))
                  if not _importable(module)]  # fmt: skip
        first = f"pip install {' '.join(needed)} && " if needed else ""
    return first + python(
        f"from transformers import AutoTokenizer as A; A.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
    )


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def merge_adapter(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What merges the adapter in `path` into its base model, in a directory beside it. `shapes`: of its weights."""
    settings = _settings(path / "adapter_config.json")
    base, new = str(settings.get("base_model_name_or_path") or "BASE_MODEL"), str(beside(path, "merged"))
    auto = AUTO.get(str(settings.get("task_type")), "AutoModelForSequenceClassification")
    head = [shape[0] for name, shape in shapes.items() if shape and name.endswith(("classifier.weight", "score.weight",
                                                                                    "out_proj.weight"))]  # fmt: skip
    options = ""
    if (path / "config.json").is_file():
        options = f", config={str(path)!r}, ignore_mismatched_sizes=True"
    elif head and auto.endswith("Classification"):
        options = f", num_labels={head[-1]}, ignore_mismatched_sizes=True"
    own = any(any(path.glob(pattern)) for pattern in ("tokenizer.json", *CONVERTIBLE))
    tokens = path if own else Path(base)
    there = tokens.is_dir()
    fetched = f"; from transformers import AutoTokenizer as T; T.from_pretrained({base!r}).save_pretrained({new!r})"
    return python(
        f"from peft import PeftModel as P; from transformers import {auto} as M; "
        f"m = P.from_pretrained(M.from_pretrained({base!r}{options}), {str(path)!r}).merge_and_unload(); "
        f"{_copied(tokens, new) if there else ''}m.save_pretrained({new!r}){'' if there else fetched}"
    )


def _settings(path: Path) -> dict:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def strip_names(weights: Path, prefix: str) -> str:
    """What takes `prefix` off the names of all weights, in place."""
    return python(
        "from safetensors.torch import load_file as L, save_file as S; "
        f"p = {str(weights)!r}; S({{k.removeprefix({prefix!r}): v for k, v in L(p).items()}}, p, "
        "metadata={'format': 'pt'})"
    )


def drop_names(weights: Path, names: list[str]) -> str:
    """What takes weights out of a file, in place."""
    return python(
        "from safetensors.torch import load_file as L, save_file as S; "
        f"p = {str(weights)!r}; w = L(p); [w.pop(k) for k in {names!r}]; S(w, p, metadata={{'format': 'pt'}})"
    )


def set_key(config: Path, key: str, value: object) -> str:
    """What sets one key of a JSON file."""
    return python(
        f"import json, pathlib; p = pathlib.Path({str(config)!r}); c = json.loads(p.read_text()); "
        f"c[{key!r}] = {value!r}; p.write_text(json.dumps(c, indent=2))"
    )
