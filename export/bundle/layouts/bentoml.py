"""A BentoML project: a service around the bundle, and what `bentoml build` makes a Bento of.

https://docs.bentoml.com/en/latest/build-with-bentoml/services.html, .../reference/bentoml/bento-build-options.html
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PAIR, PIXELS
from paredown.runtime.selftest import golden_rows

from ..archive import copy_tree
from ..writer import copy_code
from .common import pinned_requirements, service_name
from .docker import ABLE

SERVICE, FILE = "service.py", "bentofile.yaml"
LARGEST_BATCH = 32  # rows of a call, where no serving configuration was measured
SOURCE = '''\
"""A BentoML service of the bundle beside it, written by paredown: bentoml serve service:Bundle

POST /predict takes {takes}, and answers each as `paredown predict` does.
"""

from pathlib import Path
from typing import Any

import bentoml
from paredown_bundle import Model

HERE = Path(__file__).resolve().parent


@bentoml.service(name={name}, workers={workers}, resources={{"cpu": "{cores}"}})
class Bundle:
    """The bundle's files are checked before its model is opened."""

    def __init__(self) -> None:
        self.model = Model(HERE / "bundle", threads={threads})

    @bentoml.api()
    def predict(self, {parameters}) -> list[dict[str, Any]]:
        """An answer for each."""
        try:
            return self.model({arguments}, batch_size={rows})
        except ValueError as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from None
'''


def to_bentoml(bundle: Path, out: Path) -> None:
    """OUT/service.py, bentofile.yaml, requirements.txt, bundle/ and paredown_bundle/, this paredown's own code.

    InputError for a runtime that needs a GPU or a device, and for a requirements.txt that is no list of versions.
    """
    manifest = read_manifest(bundle)
    if manifest["runtime"] not in ABLE:
        raise InputError(f"layout bentoml: for bundles of {' and '.join(ABLE)}, not {manifest['runtime']}")
    requirements = pinned_requirements(bundle)
    copy_tree(bundle, out / "bundle")
    copy_code(out, images=PIXELS in manifest["inputs"])  # never the bundle's own: the service executes it
    golden, _ = golden_rows(bundle, manifest)
    source = _service(manifest, pairs=PAIR in golden[0]["text"])
    (out / SERVICE).write_text(source, encoding="utf-8")
    (out / "requirements.txt").write_text(requirements, encoding="utf-8")
    python = re.match(r"\d+\.\d+", str(manifest["packed_on"].get("python", "3.11")))
    build = {
        "service": "service:Bundle",
        "include": [SERVICE, "bundle/**", "paredown_bundle/**"],
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
        "docker": {"python_version": python.group() if python else "3.11"},
    }
    (out / FILE).write_text(yaml.safe_dump(build, sort_keys=False), encoding="utf-8")


def _service(manifest: dict[str, Any], *, pairs: bool) -> str:
    """service.py. Nothing of the bundle goes into it but its name, as a cluster takes it, and numbers.

    Requests are not put together (`batchable`): one bad row would fail those of other clients with its own.
    """
    serving = manifest.get("serving", {"instances": 1, "threads": 1})
    workers, threads = int(serving["instances"]), int(serving["threads"])
    rows = int(serving.get("batch_size") or LARGEST_BATCH)
    first = "images" if PIXELS in manifest["inputs"] else "texts"
    names = [first, *["text_pairs"] * pairs]
    takes = {"images": "images, a list of data URIs", "texts": "texts, a list"}[first]
    return SOURCE.format(
        takes=f"{takes}, and text_pairs, the second text of each" if pairs else takes,
        name=json.dumps(service_name(manifest["name"])),
        workers=workers,
        cores=workers * threads,
        threads=threads,
        parameters=", ".join(f"{name}: list[str]" for name in names),
        arguments=", ".join(names),
        rows=rows,
    )
