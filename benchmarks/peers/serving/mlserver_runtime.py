# pyright: reportMissingImports=false
"""MLServer with its adaptive batching; `python mlserver_runtime.py PORT DIR` writes its settings and starts it."""

import json
import os
import sys
from pathlib import Path

from common import Classifier
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        import numpy as np

        texts = StringCodec.decode_input(payload.inputs[0])
        scores = np.array([list(answer.values()) for answer in self.classify(texts)])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    (folder / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))
    model = {"name": "m", "implementation": "mlserver_runtime.Runtime", "max_batch_size": 16, "max_batch_time": 0.005}
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execvp(str(Path(sys.executable).parent / "mlserver"), ["mlserver", "start", str(folder)])
