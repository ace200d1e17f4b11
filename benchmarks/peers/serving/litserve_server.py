# pyright: reportMissingImports=false
"""LitServe with its own batching."""

import sys

import litserve
from common import Classifier


class Api(litserve.LitAPI):
    def setup(self, device):
        self.classify = Classifier()

    def decode_request(self, request):
        return request["text"]

    def batch(self, inputs):
        return list(inputs)

    def predict(self, x):
        return self.classify(x)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=16, batch_timeout=0.005), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
