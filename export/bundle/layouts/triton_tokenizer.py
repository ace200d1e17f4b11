"""Texts to token ids: a model of Triton's Python backend. Copied to NAME_tokenizer/VERSION/model.py.

https://github.com/triton-inference-server/python_backend. It needs numpy and tokenizers in Triton's image, and has
paredown's own code beside it, so that tokens are those that were measured.
"""

import json
import sys
from pathlib import Path

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from paredown_bundle.preprocessor import PAIR  # noqa: E402  # pyright: ignore[reportMissingImports]
from paredown_bundle.selftest import open_encoder  # noqa: E402  # pyright: ignore[reportMissingImports]
from paredown_bundle.session import padded  # noqa: E402  # pyright: ignore[reportMissingImports]


class TritonPythonModel:
    """One request is one batch of texts: BYTES (rows, 1), with `text_pair` beside `text` where the model takes two."""

    def initialize(self, args):
        """`args`: what Triton says of the model; its configuration names the inputs."""
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        self.texts = [port["name"] for port in json.loads(args["model_config"])["input"]]
        self.inputs, self.encoder = manifest["inputs"], open_encoder(HERE, manifest)
        lengths = manifest["length_policy"]["pad_to"]
        self.pad = padded(dict, () if lengths == "longest" else lengths, manifest["pad_id"])

    def execute(self, requests):
        """A response for each request: the model's inputs, or an error that names what is wrong."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            columns = [self._strings(request, name) for name in self.texts]
            rows = self.encoder.ids([PAIR.join(texts) for texts in zip(*columns, strict=True)])
            batch = self.pad(self.encoder.pad([row if len(row) else [self.encoder.pad_id] for row in rows]))
            tensors = [pb_utils.Tensor(name, batch[name]) for name in self.inputs]
        except Exception as error:  # a panic of one request must not stop the others
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    @staticmethod
    def _strings(request, name):
        found = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
        texts = [text.decode("utf-8") for text in found]
        if any(PAIR in text for text in texts):
            raise ValueError(f"{name}: the character U+001E separates two texts; no text may hold it")
        return texts
