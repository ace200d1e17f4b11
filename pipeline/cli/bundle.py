"""The commands of the receiving side: `verify`, `pack`."""

from __future__ import annotations

import time
from math import exp, lgamma, log, log1p
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from paredown.runtime.errors import InputError, printable
from paredown.runtime.manifest import SIGNATURE, BundleError

from ..progress import suggest
from .common import LabelColumn, TextColumn

app = typer.Typer()
out = Console(markup=False, highlight=False, soft_wrap=True)
NO_COUNT = ("R2", "Spearman", "MRR")  # they hang on how far these rows are spread, or on how many passages there are
LayoutName = Literal[
    "plain", "archive", "triton", "hub", "oci", "docker", "kserve", "bentoml", "mobile", "executorch", "litert", "npu"
]  # the keys of `layouts.registry.LAYOUTS`
ProfileName = Literal["qnn", "vitisai", "rknn"]  # those of `onnx.npu_profiles.profiles`
BundlePath = Annotated[Path, typer.Argument(help="A bundle (directory or .tar.gz), or a run directory that holds one.")]
PublicKey = Annotated[
    Path | None, typer.Option(help="PEM file of a public key; only a bundle signed by its private key is accepted.")
]
DeadlineS = Annotated[
    float, typer.Option(min=1, help="Time limit to open the model and to answer its golden rows, in seconds.")
]


@app.command()
def verify(
    bundle: BundlePath,
    data: Annotated[str | None, typer.Option(help="Labelled rows for a check of the metric.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of a public key to check the signature against.")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    deadline_s: DeadlineS = 120,
) -> None:
    """Verify a bundle: hashes, this machine, golden rows, and the metric on rows. Runs no code from the bundle."""
    from paredown.export.bundle.archive import unpacked
    from paredown.export.bundle.cold_start import verified
    from paredown.export.bundle.signature import signer_of
    from paredown.runtime.manifest import read_manifest

    begin = time.monotonic()
    check_key(public_key)
    with unpacked(bundle, deadline_s) as path:
        manifest = read_manifest(path)
        rows = None if data is None else (data, text_column, label_column)
        # The files, the signature, then the machine and the golden rows; in a process of its own, which can be stopped.
        found = verified(path, max(1.0, deadline_s - (time.monotonic() - begin)), public_key, rows)
        if public_key is not None:
            signer = signer_of(path)
            out.print(printable(f"signed   {public_key}" if signer is None else f"signed   {signer}: {public_key}"))
        elif (path / SIGNATURE).exists():
            out.print("note: signed; not checked: give --public-key FILE")
            said = signer_of(path) or "in a form that is not read here"
            out.print(printable(f"note: {SIGNATURE}: {said}"))
        for note in found.notes:
            out.print(printable(f"note: {note}"))
        _show_sizes(manifest)
        start = found.start
        out.print(
            f"start    {start.total:.2f} s from a new process to its first answer: {start.runtime:.2f} s importing "
            f"{manifest['runtime']}, {start.session:.2f} s opening the model, {start.ours:.2f} s the rest"
        )
        out.print(
            f"OK: {manifest['name']}: {len(manifest['files'])} files whole, golden rows off by at most "
            f"{found.difference:.2g}"
        )
        if data is not None and found.metric is not None:
            out.print(printable(_judged(manifest["metric"], data, found.metric, found.rows)))
    suggest("paredown", "serve", bundle)


@app.command()
def pack(
    bundle: BundlePath,
    output_dir: Annotated[Path, typer.Option(help="Directory to write; must not exist.")],
    layout: Annotated[
        LayoutName,
        typer.Option(
            help="Layout: the bundle, its .tar.gz, a repository of Triton or of the Hugging Face Hub, an OCI image, "
            "what `docker build` takes, that with a KServe InferenceService, a BentoML project, the files of an "
            "application that runs ONNX Runtime's mobile package, ExecuTorch or LiteRT, or an ONNX model for the "
            "compiler of an NPU."
        ),
    ] = "plain",
    private_key: Annotated[Path | None, typer.Option(help="PEM file of a private key to sign the bundle with.")] = None,
    public_key: PublicKey = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository; a new one is private.")
    ] = None,
    profile: Annotated[
        ProfileName | None, typer.Option(help="Of npu: compiler profile: operators, types and opset.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Of npu: rows to calibrate on, such as training rows.")] = None,
    text_column: TextColumn = None,
    activations: Annotated[
        int | None, typer.Option(min=8, max=16, help="Of npu: bits of activations (default: the most of the profile).")
    ] = None,
    embedding: Annotated[
        Literal["inside", "outside"] | None,
        typer.Option(help="Of npu: whether the graph or the application looks up the embeddings (default: inside)."),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=4, help="Of npu: length of every row, in tokens (default: the maximum).")
    ] = None,
) -> None:
    """Write a bundle in the layout of a serving system, signed if a key is given, or for the Hub."""
    import tempfile

    from paredown.export.bundle.archive import unpacked
    from paredown.export.bundle.layouts.directory import to_plain
    from paredown.export.bundle.layouts.registry import LAYOUTS
    from paredown.runtime.selftest import check_files, read_manifest

    from ..store import new_directory

    if private_key is not None and not LAYOUTS[layout].holds_bundle:
        raise InputError(f"--private-key: layout {layout} holds no bundle to sign; sign with another --layout")
    publish = None
    if push is not None:
        uploader = LAYOUTS[layout].upload
        if uploader is None:
            able = ", ".join(name for name, known in LAYOUTS.items() if known.upload)
            raise InputError(f"--push: for --layout {able}, not {layout}")
        publish = uploader(push)
    asked = {"profile": profile, "data": data, "text_column": text_column, "activations": activations}
    asked |= {"embedding": embedding, "length": length}
    given = {name: value for name, value in asked.items() if value is not None}
    if other := [name for name in given if name not in LAYOUTS[layout].options]:
        able = ", ".join(name for name, known in LAYOUTS.items() if other[0] in known.options)
        raise InputError(f"--{other[0].replace('_', '-')}: for --layout {able}, not {layout}")
    check_key(public_key)
    with (
        unpacked(bundle) as path,
        tempfile.TemporaryDirectory(prefix="paredown-") as scratch,
        new_directory(output_dir) as target,
    ):
        check_files(path, read_manifest(path))
        if public_key is not None:
            from paredown.export.bundle.signature import check_signature

            check_signature(path, public_key)
        if private_key is not None:
            from paredown.export.bundle.signature import sign

            to_plain(path, Path(scratch))
            path = Path(scratch)
            sign(path, private_key)
        LAYOUTS[layout].write(path, target, **given)
    out.print(f"{output_dir}: {layout}{', signed' if private_key else ''}")
    if publish is None:
        suggest(*LAYOUTS[layout].then(output_dir))
    else:
        out.print(publish(output_dir))


def check_key(public_key: Path | None) -> None:
    """InputError for a public key that cannot be used."""
    if public_key is not None:
        from paredown.export.bundle.signature import verifier_of

        verifier_of(public_key)


def _judged(known: dict, data: str, metric: float, rows: int) -> str:
    """The metric beside the manifest's. BundleError when a model at the lower end of the manifest's interval would
    have so few rows right, or fewer, less than once in 1000 times (the binomial distribution). Nothing is concluded of
    numbers and vectors."""
    split = "validation" if known["metric_test"] is None else "test"
    line = f"metric on {data}: {metric:.2f} ({rows} rows); the manifest says {known[f'metric_{split}']:.2f} on {split}"
    interval = known[f"metric_{split}_ci"]
    if interval is None:
        return line
    line += f", {interval[0]:.2f} to {interval[1]:.2f}"
    if known["metric"] in NO_COUNT:
        return line
    rate, width = interval[0] / 100, (interval[1] - interval[0]) / 100
    if known["metric"] != "accuracy" and width > 0:  # of an F1, as many rows as would give an accuracy this interval
        middle = known[f"metric_{split}"] / 100
        if not 0 < middle < 1:
            return line
        rows = min(rows, round(middle * (1 - middle) * (2 * 1.96 / width) ** 2))
    right = round(metric * rows / 100)
    if 0 < rate < 1 and right < rate * rows:
        ways = (lgamma(rows + 1) - lgamma(k + 1) - lgamma(rows - k + 1) for k in range(right + 1))
        chance = sum(exp(w + k * log(rate) + (rows - k) * log1p(-rate)) for k, w in enumerate(ways))
        if chance < 0.001:
            raise BundleError(f"{line}: worse than chance explains; are these rows of the kind that it was made for?")
    return line


def _show_sizes(manifest: dict) -> None:
    """What each file costs, and what the runtime environment costs on disk; the largest first."""
    files = sorted(((e["bytes"], name) for name, e in manifest["files"].items()), reverse=True)
    needs = sorted(((e["bytes"], name) for name, e in manifest["environment"].items()), reverse=True)
    for title, entries, shown in (("files", files, 3), ("runtime", needs, 4)):
        top = printable(", ".join(f"{name} {size / 1e6:.1f}" for size, name in entries[:shown]))
        rest = f", {len(entries) - shown} more" if len(entries) > shown else ""
        out.print(f"{title:8} {sum(size for size, _ in entries) / 1e6:.1f} MB: {top}{rest}")
