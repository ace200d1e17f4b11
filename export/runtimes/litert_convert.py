"""Converts exported programs to a LiteRT model: `python litert_convert.py JOB.json`, by the Python of litert-torch.

A program by itself, without paredown: litert-torch's pins conflict with ours. JOB.json: `programs`, {signature: .pt2
file} of torch.export; `inputs` and `output`, their names; `target`, the .tflite file; `int8`, whether its weights
become INT8 (ai-edge-quantizer, dynamic range). https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(job: Path) -> None:
    """Write the model that the job asks for."""
    import litert_torch  # pyright: ignore[reportMissingImports]
    import torch

    wanted = json.loads(job.read_text())
    names, output = wanted["inputs"], wanted["output"]

    class Named(torch.nn.Module):
        """The names of a signature are those of keyword arguments and of the dictionary that is returned."""

        def __init__(self, program: torch.nn.Module) -> None:
            super().__init__()
            self.program = program

        def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
            return {output: self.program(*(given[name] for name in names))}

    converter = litert_torch
    for signature, file in wanted["programs"].items():
        program = torch.export.load(file)
        examples, _ = program.example_inputs or ((), {})
        module = Named(program.module())
        module.training = False  # `eval` is refused by what torch.export gives, which has no mode
        converter = converter.signature(signature, module, sample_kwargs=dict(zip(names, examples, strict=True)))
    converter.convert().export(wanted["target"])
    if wanted["int8"]:
        from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

        quantised = quantizer.Quantizer(wanted["target"], recipe.dynamic_wi8_afp32()).quantize()
        quantised.export_model(wanted["target"], overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
