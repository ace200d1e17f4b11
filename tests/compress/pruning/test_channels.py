from pathlib import Path

import numpy as np
import picturing
import pytest
import torch
import transformers
from conftest import IMAGES
from torch import nn

from paredown.compress.config import Prune
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.pruning.channels import estimate_batch_norms
from paredown.compress.pruning.prune import prune
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError

SIZES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"},
    "bottleneck": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [2, 1], "num_stages": 2, "patch_size": 2},
}
WIDTHS = {"resnet": [4, 8], "bottleneck": [8, 16], "convnext": [4, 8]}


def network(path: Path, kind: str):
    """A network with random weights and statistics, and its checkpoint."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("resnet" if kind == "bottleneck" else kind, **SIZES[kind])
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_var is not None
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 2)
    model.save_pretrained(path)
    picturing.write_preprocessor(path, 16)
    return model, open_checkpoint(path, IMAGES)


def pixels(count: int = 3, rows: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"pixel_values": rng.normal(size=(rows, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("importance", ["fisher", "taylor", "magnitude"])
@pytest.mark.parametrize("kind", SIZES)
def test_a_pruned_network_has_the_share_of_each_stage_and_loads_again(
    kind: str, importance: str, tmp_path: Path
) -> None:
    model, source = network(tmp_path / "a", kind)
    found = prune(model, pixels(), Prune.model_validate({"channels": 0.5, "multiple": 4, "importance": importance}))
    assert found.to_json()["channels"] == model.config.hidden_sizes == WIDTHS[kind]
    saved = save(model, source, tmp_path / "b")
    assert not (saved.path / "structure.json").exists()
    want = forward(model, pixels()[0])["logits"]
    np.testing.assert_array_equal(forward(load(saved, IMAGES), pixels()[0])["logits"], want)
    plain, report = transformers.AutoModelForImageClassification.from_pretrained(saved.path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert plain.config.hidden_sizes == WIDTHS[kind]


@pytest.mark.parametrize("importance", ["fisher", "taylor"])
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_channels_that_nothing_reads_go_first(kind: str, importance: str, tmp_path: Path) -> None:
    """Half of the channels inside a block are not read: the output of that block stays the same."""
    model, _ = network(tmp_path, kind)
    path = "encoder.stages.1.layers.0." + ("layer.1.convolution" if kind == "resnet" else "pwconv2")
    reader = model.base_model.get_submodule(path)
    alive = torch.arange(reader.weight.shape[1]) % 2 == 0
    with torch.no_grad():
        reader.weight[:, ~alive] = 0
        if kind == "resnet":  # every channel fires
            model.base_model.get_submodule("encoder.stages.1.layers.0.layer.0.normalization").bias.fill_(10)
    want = reader.weight[:, alive].detach().clone()
    settings = Prune.model_validate({"channels": 0.5, "multiple": 1, "importance": importance, "resolve": False})
    prune(model, pixels(), settings)
    left = model.base_model.get_submodule(path).weight.detach()
    assert left.shape[1] == int(alive.sum())
    norms = left.flatten(2).norm(dim=-1) if left.ndim > 2 else left.abs()
    assert (norms.sum(0) > 0).all()
    assert left.shape[0] == want.shape[0] // 2


def test_batch_norms_are_estimated_again(tmp_path: Path) -> None:
    model, _ = network(tmp_path, "resnet")
    norm = model.resnet.embedder.embedder.normalization
    momentum, batches = norm.momentum, pixels()
    estimate_batch_norms(model, batches)
    with torch.no_grad():
        seen = torch.cat(
            [model.resnet.embedder.embedder.convolution(torch.from_numpy(b["pixel_values"])) for b in batches]
        )
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert norm.momentum == momentum
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_a_pruned_network_is_exported_with_parity(kind: str, tmp_path: Path) -> None:
    model, source = network(tmp_path / "a", kind)
    prune(model, pixels(), Prune(channels=0.5, multiple=4))
    saved = save(model, source, tmp_path / "b")
    want = forward(model, pixels()[0])["logits"]
    plain = plain_onnx(saved, IMAGES, tmp_path / "plain.onnx")
    one = [{"pixel_values": row[None]} for row in np.concatenate([batch["pixel_values"] for batch in pixels()])]
    for precision, tolerance in (("fp32", 1e-4), ("int8-static", 0.3)):
        job = ExportJob(plain, saved, IMAGES, tmp_path / precision, 8, precision, one)
        made = RUNTIMES["onnxruntime"].export(job)
        got = open_artifact(made, threads=1)(pixels()[0])["logits"]
        assert np.abs(got - want).max() < tolerance * np.abs(want).max()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Prune(ffn=0.5), "ffn: not supported for 'resnet'; give channels"),
        (Prune(heads=0.5), "heads: not supported for 'resnet'"),
        (Prune(layers=1), "layers: not supported for 'resnet'"),
        (Prune(speedup=2), "speedup: not supported for 'resnet'; give channels"),
        (Prune(latency_ms=2), "latency_ms: not supported for 'resnet'"),
        (Prune(), "channels: give the share"),
    ],
)
def test_what_a_convolutional_network_does_not_have_is_refused(settings: Prune, words: str, tmp_path: Path) -> None:
    model, _ = network(tmp_path, "resnet")
    with pytest.raises(InputError, match=words):
        prune(model, pixels(), settings)


def test_widths_that_the_config_cannot_describe_are_refused(tmp_path: Path) -> None:
    """An embedding as wide as the first stage has no shortcut there, and this network has one."""
    model, _ = network(tmp_path, "bottleneck")
    with pytest.raises(InputError, match=r"config\.json of 'resnet' cannot describe"):
        prune(model, pixels(), Prune(channels=0.5, multiple=8))


def test_a_share_that_prunes_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = network(tmp_path, "convnext")
    assert prune(model, pixels(), Prune(channels=0.9, multiple=16)).channels == (8, 16)
    assert "nothing was pruned" in caplog.text
