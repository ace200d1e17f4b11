"""The self-test of a bundle: files, machine and golden rows.

Needs numpy, tokenizers (of images Pillow) and the bundle's runtime. paredown itself uses these functions for
`paredown verify`, and never runs the copy that came inside a bundle.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from .answers import ANSWERS
from .causal_decoding import Decoder
from .formats import FORMATS
from .manifest import MANIFEST, BundleError, check_files, models_of, read_manifest
from .preprocessor import MARKED, Preprocessor, reader_file
from .preprocessors import preprocessor_of
from .seq2seq_decoding import writer
from .session import CannotRunHere, Session, open_session, padded

GOLDEN_ROWS, GOLDEN_BYTES = 64, 10**8  # at most: rows, bytes of the file
GOLDEN_TEXT, GOLDEN_IMAGE = 10**6, 10**7  # characters of a row, at most; of an image as its data URI
OTHER_TEXTS = 0.5  # of a text-to-text model, where rounding is coarse: the share of golden rows with another text
UNIT = 4.0  # times the largest golden output: what a tolerance in units of the model's spread may refer to at most
__all__ = ["MANIFEST", "BundleError", "check_files", "read_manifest"]  # for those who want all the checks from here


def check_machine(manifest: dict) -> list[str]:
    """Raise BundleError when the CPU lacks what the model needs; return what merely differs from the packer."""
    needs = [str(flag) for flag in manifest["isa"].get("needs_one_of") or []]
    here = cpu_flags()
    if needs and here and not set(needs) & here:
        raise BundleError(
            f"this CPU has none of {', '.join(needs)}: the {manifest['precision']} model would give other results or "
            "none; choose another candidate for this device (paredown run on it)"
        )
    from importlib import metadata

    notes = [] if here or not needs else ["the CPU's instruction sets cannot be read here; the golden rows decide"]
    for package, packed in manifest["requirements"].items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise BundleError(f"{package} is not installed; pip install --no-deps -r requirements.txt") from None
        if installed != packed:
            notes.append(f"{package} is {installed}, the bundle was packed with {packed}")
    return notes


def cpu_flags() -> set[str]:
    """Linux's flags of the first CPU; empty where they cannot be read."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return set()
    return {
        flag for line in first.splitlines() if line.lower().startswith(("flags", "features")) for flag in line.split()
    }


def open_encoder(bundle: Path, manifest: dict) -> Preprocessor:
    """The bundle's tokenizer, or its preprocessor of images. Check the files first."""
    try:
        marks = bool(manifest["source"]["details"].get(MARKED))
        return preprocessor_of(bundle, manifest["inputs"], manifest["max_length"], manifest["pad_id"], marks=marks)
    except Exception as error:
        raise BundleError(f"{reader_file(manifest['inputs'])} does not open here: {_line(error)}") from None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(manifest: dict) -> int:
    """CPU threads with which the bundle's model answers a single row the fastest, as far as this machine has them."""
    here = usable_cores()
    return min(manifest.get("threads") or here, here)


def open_runtime(bundle: Path, manifest: dict, threads: int | None = None, alone: bool = True) -> Session:
    """The bundle's model in its runtime, on `threads` (None: see threads_of). Check the files first. `alone`:
    open_session."""
    threads = threads or threads_of(manifest)
    try:
        runtime, precision = manifest["runtime"], manifest["precision"]
        files = [bundle / name for name in models_of(manifest)]
        model, *decoder = (open_session(file, runtime, precision, threads, alone) for file in files)
    except CannotRunHere as error:
        raise BundleError(f"the {manifest['precision']} model cannot run on this machine: {error}") from None
    except Exception as error:  # each runtime raises its own classes for a file that is no model
        raise BundleError(f"the model does not open here: {_line(error)}") from None
    rules = {key: value for key, value in manifest.get("generation", {}).items() if key != "decoder"}
    if decoder:
        return writer(model, decoder[0], rules)
    if rules:
        return Decoder(model, rules)
    lengths, rows = manifest["length_policy"]["pad_to"], manifest["batch_size"]
    if lengths == "longest" and rows is None:
        return model
    return padded(model, () if lengths == "longest" else lengths, manifest["pad_id"], rows)


def open_model(bundle: Path, manifest: dict, threads: int | None = None) -> tuple[Session, Preprocessor]:
    """The bundle's session and tokenizer. Check the files first."""
    return open_runtime(bundle, manifest, threads), open_encoder(bundle, manifest)


def check_golden(bundle: Path, manifest: dict, session: Session, encoder: Preprocessor) -> float:
    """Tokens, outputs and answers of the golden rows are those that were packed; returns the largest difference, of a
    text-to-text model the share of rows, 0..1, with another text."""
    output, labels, worst = manifest["outputs"][0], manifest["labels"], 0.0
    rows, tolerance = golden_rows(bundle, manifest)
    kind, writes, others = ANSWERS[manifest["answer"]], len(models_of(manifest)) > 1, 0
    for i, row in enumerate(rows):
        try:
            ids = encoder.ids([row["text"]])[0]
            if row["input_ids"] is not None and ids != row["input_ids"]:  # an image has none: its output decides
                raise BundleError(f"golden row {i}: the tokenizer gives other tokens here")
            got = np.asarray(session(encoder.pad([ids]))[output], dtype=np.float64)[0]
            again = getattr(session, "through_the_cache", None)  # a decoder's
            by_cache = got if again is None else again(ids)
        except BundleError:
            raise
        except Exception as error:  # a model with other inputs or outputs; each runtime has its own classes
            raise BundleError(f"golden row {i}: the model does not answer: {_line(error)}") from None
        want = np.asarray(row["output"], dtype=np.float64)
        if writes:
            if encoder.text(row["output"]) != row["answer"]:
                raise BundleError(f"golden row {i}: the tokenizer gives another text for the tokens that were written")
            others += got.shape != want.shape or bool((got != want).any())
            continue
        parts = [(x - want)[..., : kind.compared] for x in (got, by_cache) if x.shape == want.shape]
        # np.max, which keeps a NaN in either of them, where max() would drop one
        difference = float(np.max([np.abs(part).max() for part in parts])) if len(parts) == 2 else float("inf")
        worst = max(worst, difference)
        # of many tokens one may be undecided
        flipped = kind.decisive and got.ndim == 1 and got.argmax() != want.argmax()
        if not difference <= tolerance or flipped:
            raise BundleError(f"golden row {i}: off by {difference:.3g}, tolerance {tolerance:g}: {got} for {want}")
        if len(labels) != got.shape[-1] or kind.read(want, labels) != row["answer"]:
            raise BundleError(f"golden row {i}: the answer was {row['answer']!r}, the manifest's labels say otherwise")
    if writes:  # one token that is another makes all behind it others: what counts is how many texts are
        worst = others / len(rows)
        if worst > tolerance:
            raise BundleError(f"{others} of {len(rows)} golden rows have another text here")
    return worst


def golden_rows(bundle: Path, manifest: dict) -> tuple[list[dict], float]:
    """The golden rows, and the tolerance for the manifest's runtime."""
    name, runtime = manifest["golden"], manifest["runtime"]
    try:
        if (bundle / name).stat().st_size > GOLDEN_BYTES:
            raise BundleError(f"{name}: over {GOLDEN_BYTES / 1e6:g} MB")
        golden = json.loads((bundle / name).read_bytes())
        rows, tolerances = golden["rows"], golden["tolerance"]
        kind = int if len(models_of(manifest)) > 1 else float  # tokens, or numbers
        right = all(
            isinstance(row["text"], str)
            and (row["input_ids"] is None) == ("pixel_values" in manifest["inputs"])
            and all(type(i) is int for i in row["input_ids"] or ())
            and row["output"]
            and all(type(x) is kind for line in row["output"] for x in (line if type(line) is list else [line]))
            for row in rows
        )
        if not right or not all(type(t) is float for t in tolerances.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"{name}: damaged") from None
    if not rows:
        raise BundleError(f"{name}: no rows, so nothing is proved")
    longest = GOLDEN_IMAGE if "pixel_values" in manifest["inputs"] else GOLDEN_TEXT
    if len(rows) > GOLDEN_ROWS or max(len(row["text"]) for row in rows) > longest:
        raise BundleError(f"{name}: over {GOLDEN_ROWS} rows, or a row of over {longest} characters")
    if runtime not in tolerances:
        raise BundleError(f"{name}: no tolerance for {runtime}; it has {', '.join(sorted(tolerances)) or 'none'}")
    tolerance, most = tolerances[runtime], largest_tolerance(manifest, [row["output"] for row in rows])
    if not 0 <= tolerance <= most:  # NaN is neither
        raise BundleError(f"{name}: a tolerance of {tolerance:g} proves nothing; at most {most:.3g} is allowed here")
    return rows, tolerance


def largest_tolerance(manifest: dict, outputs: list) -> float:
    """The largest tolerance that still proves something, for a bundle's runtime, precision and task.

    Of a text-to-text model, a share of the golden rows, 0..1; otherwise a difference of outputs, finite. Numbers and
    vectors have a unit of their own, so theirs is in multiples of the largest of the golden `outputs`.
    """
    if len(models_of(manifest)) > 1:
        return 0.0 if manifest["precision"] == "fp32" else OTHER_TEXTS
    known = FORMATS.get(manifest["runtime"])
    most = known.tolerance.get(manifest["precision"], 0.0) if known else 0.0
    if not ANSWERS[manifest["answer"]].has_unit:
        return most
    numbers = (x for output in outputs for line in output for x in (line if isinstance(line, list) else [line]))
    size = max((abs(x) for x in numbers if np.isfinite(x)), default=0.0)
    return most * (UNIT * size or 1.0)


def selftest(bundle: Path, threads: int | None = None) -> dict:
    """All checks in order: files, machine, golden rows. Returns what was found; BundleError at the first miss."""
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    notes = check_machine(manifest)
    session, encoder = open_model(bundle, manifest, threads)
    worst = check_golden(bundle, manifest, session, encoder)
    return {"name": manifest["name"], "files": len(manifest["files"]), "largest_difference": worst, "notes": notes}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main(bundle: Path) -> int:
    """Check the bundle in this directory; the exit code."""
    try:
        found = selftest(bundle)
    except BundleError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # this very code may have been damaged on the way
        print(f"FAILED: {type(error).__name__}: {_line(error)}; unpack the bundle again", file=sys.stderr)
        return 1
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"OK: {found['name']}: {found['files']} files, golden rows off by at most {found['largest_difference']:.2g}")
    return 0
