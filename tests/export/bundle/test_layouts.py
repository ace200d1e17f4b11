"""Layouts are read back by what defines them: Triton's own protocol buffers, the OCI image specification."""

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, get_args

import onnxruntime
import pytest
from bundling import SERVING
from conftest import paredown, refused
from google.protobuf import text_format
from manifests import EXAMPLE, change_manifest
from triton_protocol import official_config

from paredown.export.bundle.archive import unpack
from paredown.export.bundle.layouts.registry import LAYOUTS
from paredown.export.bundle.layouts.triton import to_triton, triton_config
from paredown.pipeline.cli.bundle import LayoutName
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.selftest import open_encoder, selftest


def test_the_command_offers_the_layouts_there_are() -> None:
    assert get_args(LayoutName) == tuple(LAYOUTS)


def test_triton_reads_its_config_and_the_model_has_those_inputs_and_outputs(finished: Path, tmp_path: Path) -> None:
    done = paredown("pack", finished, "--layout", "triton", "--output-dir", tmp_path / "repository")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "repository" / "tiny"
    assert sorted(p.name for p in home.iterdir()) == ["1", "config.pbtxt", "labels.txt", "tokenizer.json"]
    config = text_format.Parse((home / "config.pbtxt").read_text(), official_config())
    assert config.IsInitialized()
    assert (config.name, config.backend) == ("tiny", "onnxruntime")
    assert config.HasField("dynamic_batching")
    assert list(config.version_policy.specific.versions) == [1]
    session = onnxruntime.InferenceSession(home / "1" / config.default_model_filename)
    kinds = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    for given, has in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        enum = given[0].DESCRIPTOR.fields_by_name["data_type"].enum_type
        said = {port.name: (enum.values_by_number[port.data_type].name, len(port.dims) + 1) for port in given}
        assert said == {port.name: (kinds[port.type], len(port.shape)) for port in has}
    assert list(config.output[0].dims) == [2]
    assert (home / config.output[0].label_filename).read_text().splitlines() == ["negative", "positive"]
    encoder = open_encoder(finished / "bundle", read_manifest(finished / "bundle"))
    batch = encoder.pad(encoder.ids(["a good film", "bad"]))
    answers: Any = session.run(None, {port.name: batch[port.name] for port in config.input})[0]
    assert answers.shape == (2, 2)


def test_triton_config_of_openvino_and_of_odd_names(tmp_path: Path, finished: Path) -> None:
    manifest = read_manifest(finished / "bundle")
    odd = manifest | {"runtime": "openvino", "model": "model/model.xml", "inputs": ['a"b\\', "ü\n"]}
    config = text_format.Parse(triton_config(odd), official_config())
    assert (config.backend, config.default_model_filename) == ("openvino", "model.xml")
    assert [port.name for port in config.input] == ['a"b\\', "ü\n"]
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    change_manifest(bundle, runtime="other")
    with pytest.raises(InputError, match="for onnxruntime and openvino bundles, not other"):
        to_triton(bundle, tmp_path)


@pytest.mark.parametrize(
    ("runtime", "name"), [("onnxruntime", "intra_op_thread_count"), ("openvino", "INFERENCE_NUM_THREADS")]
)
def test_triton_starts_with_the_serving_configuration(runtime: str, name: str) -> None:
    manifest = EXAMPLE | {"runtime": runtime, "task": "text-classification", "serving": SERVING}
    config = text_format.Parse(triton_config(manifest), official_config())
    assert (config.instance_group[0].count, config.max_batch_size) == (2, 4)
    assert config.parameters[name].string_value == "1"
    config = text_format.Parse(triton_config({k: v for k, v in manifest.items() if k != "serving"}), official_config())
    assert (config.instance_group[0].count, config.max_batch_size, len(config.parameters)) == (1, 32, 0)


def blob(layout: Path, descriptor: dict) -> bytes:
    raw = (layout / "blobs" / Path(descriptor["digest"].replace(":", "/"))).read_bytes()
    assert len(raw) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == descriptor["digest"]
    return raw


def test_an_oci_layout_reads_back_as_the_bundle(finished: Path, tmp_path: Path) -> None:
    for name in ("image", "again"):
        assert paredown("pack", finished, "--layout", "oci", "--output-dir", tmp_path / name).returncode == 0
    layout = tmp_path / "image"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    (entry,) = index["manifests"]
    image = json.loads(blob(layout, entry))
    assert image["schemaVersion"] == index["schemaVersion"] == 2
    config = json.loads(blob(layout, image["config"]))
    assert config["os"] == "linux"
    assert len(image["layers"]) == len(config["rootfs"]["diff_ids"]) == 2
    assert len(list((layout / "blobs" / "sha256").iterdir())) == 4
    for layer, content in zip(image["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"].endswith("tar+gzip")
        raw = gzip.decompress(blob(layout, layer))
        assert content == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        (tmp_path / "layer.tar").write_bytes(raw)
        with tarfile.open(tmp_path / "layer.tar") as tar:
            for member in tar:
                target = tmp_path / "root" / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    assert selftest(tmp_path / "root" / "bundle")["name"] == "tiny"
    here, again = ({p.relative_to(d): p.read_bytes() for d in [tmp_path / n] for p in d.rglob("*") if p.is_file()}
                   for n in ("image", "again"))  # fmt: skip
    assert here == again


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_the_layout(finished: Path, tmp_path: Path) -> None:
    paredown("pack", finished, "--layout", "oci", "--output-dir", tmp_path / "image")
    command = ["skopeo", "copy", f"oci:{tmp_path / 'image'}:1", f"dir:{tmp_path / 'copied'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plain_and_archive_are_the_bundle(finished: Path, tmp_path: Path) -> None:
    for layout in ("plain", "archive"):
        done = paredown("pack", finished / "bundle.tar.gz", "--layout", layout, "--output-dir", tmp_path / layout)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "archive" / "tiny.tar.gz").read_bytes() == (finished / "bundle.tar.gz").read_bytes()
    out = unpack(tmp_path / "archive" / "tiny.tar.gz", tmp_path / "out")
    assert selftest(tmp_path / "plain") == selftest(out)
    refused(paredown("pack", finished, "--output-dir", tmp_path / "plain"), "exists already")
    refused(paredown("pack", tmp_path / "nothing", "--output-dir", tmp_path / "x"), "no such bundle")
    assert not (tmp_path / "x").exists()


def test_a_damaged_bundle_is_not_laid_out(finished: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    (bundle / "tokenizer.json").write_text("{}")
    done = paredown("pack", bundle, "--layout", "oci", "--output-dir", tmp_path / "x")
    assert done.returncode == 1
    assert "tokenizer.json: 2 bytes" in done.stderr
    assert not (tmp_path / "x").exists()
