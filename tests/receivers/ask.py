"""What receivers in Python answer: reads {directory, texts, asked: [{receiver, ...}, ...]}, writes answers by each."""

# pyright: reportMissingImports=false

import json
import logging
import os
import sys
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"
logging.disable(logging.WARNING)


def optimum(directory: str, texts: list[list[str]], model: str) -> list:
    """Outputs of an ORTModel class, by name, for each text or pair of texts."""
    import optimum.onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    opened = getattr(optimum.onnxruntime, model).from_pretrained(directory)
    found = []
    for parts in texts:
        outputs = opened(**tokenizer(*parts, truncation=True, return_tensors="pt"))
        found.append({name: value[0].tolist() for name, value in outputs.items() if value is not None})
    return found


def sentence_transformers(directory: str, texts: list[list[str]], file: str) -> list:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(directory, backend="onnx", model_kwargs={"file_name": file})
    return model.encode([text for (text,) in texts], batch_size=1).tolist()


def fastembed(directory: str, texts: list[list[str]], pooling: str, width: int) -> list:
    """`pooling`: DISABLED takes the finished vector, MEAN or CLS pools those of tokens."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    finished = pooling == "DISABLED"
    TextEmbedding.add_custom_model(
        model=f"me/{pooling}",
        pooling=PoolingType[pooling],
        normalization=not finished,
        sources=ModelSource(hf=f"me/{pooling}"),
        dim=width,
        model_file="onnx/model.onnx",
        output_name="sentence_embedding" if finished else None,
    )
    model = TextEmbedding(f"me/{pooling}", specific_model_path=directory)
    return [next(iter(model.embed([text]))).tolist() for (text,) in texts]


RECEIVERS: dict[str, Callable[..., list]] = {f.__name__: f for f in (optimum, sentence_transformers, fastembed)}

if __name__ == "__main__":
    told = json.loads(sys.stdin.read())
    where = {"directory": told["directory"], "texts": told["texts"]}
    print(json.dumps([RECEIVERS[one.pop("receiver")](**where, **one) for one in told["asked"]]))
