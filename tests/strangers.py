"""Bundles as a stranger might make them: right in every hash, with a model or a tokenizer that never comes back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives import serialization as formats
from cryptography.hazmat.primitives.asymmetric import ec
from onnx import TensorProto, helper, numpy_helper

from paredown.runtime.manifest import DIGEST, MANIFEST, digest_line


def key_pair(home: Path) -> tuple[Path, Path]:
    """PEM files of a new key: (private, public), in the new directory `home`."""
    home.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = formats.Encoding.PEM
    (home / "key.pem").write_bytes(key.private_bytes(pem, formats.PrivateFormat.PKCS8, formats.NoEncryption()))
    public = key.public_key().public_bytes(pem, formats.PublicFormat.SubjectPublicKeyInfo)
    (home / "key.pub").write_bytes(public)
    return home / "key.pem", home / "key.pub"


def openers(pid: int) -> list[int]:
    """Processes below `pid` that open bundles."""
    found, parents = [], {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if b"paredown.export.isolation" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))

    def below(one: int) -> bool:
        return one == pid or (one in parents and below(parents[one]))

    return [one for one in found if below(one)]


def endless(bundle: Path, out: Path, folded: bool = False) -> Path:
    """A copy of the bundle whose model loops for ever: when it is called, or (`folded`) while it is opened."""
    model = onnx.load(str(bundle / "model" / "model.onnx"), load_external_data=False)
    body = helper.make_graph(
        [helper.make_node("Identity", ["cin"], ["cout"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cin", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("cout", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    start = [] if folded else [helper.make_node("Cast", ["input_ids"], ["zero"], to=1)]
    nodes = [
        *start,
        helper.make_node("Loop", ["", "true", "zero"], ["fl"], body=body),
        helper.make_node("Cast", ["input_ids"], ["f"], to=1),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1], keepdims=1),
        helper.make_node("ReduceMean", ["fl"], ["flm"], axes=[1], keepdims=1),
        helper.make_node("Add", ["m", "flm"], ["n"]),
        helper.make_node("Concat", ["n", "n"], ["logits"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.array(True), "true")]
    constants += [numpy_helper.from_array(np.zeros((1, 1), np.float32), "zero")] if folded else []
    inputs = [helper.make_tensor_value_info(i.name, TensorProto.INT64, ["b", "s"]) for i in model.graph.input]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return changed(bundle, out, lambda path: onnx.save(made, str(path / "model" / "model.onnx")))


def swollen(bundle: Path, out: Path) -> Path:
    """A copy whose tokenizer multiplies every text before it reads it."""

    def change(path: Path) -> None:
        tokenizer = json.loads((path / "tokenizer.json").read_text())
        more = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aaaaaaaaaaaaaaaa"}
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [more] * 9}
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))

    return changed(bundle, out, change)


def changed(bundle: Path, out: Path, change: Callable[[Path], object]) -> Path:
    """A copy of the bundle, changed, with hashes that are right again."""
    shutil.copytree(bundle, out)
    change(out)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["files"] = {
        path.relative_to(out).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, DIGEST)
    }
    raw = (json.dumps(manifest, indent=2) + "\n").encode()
    (out / MANIFEST).write_bytes(raw)
    (out / DIGEST).write_bytes(digest_line(raw))
    return out
