"""sbom.cdx.json: the bill of materials of a model as CycloneDX 1.6; the same bundle gives the same bytes."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from paredown.runtime.manifest import sha256_of

from .environment import Installed
from .provenance import Lineage

NAME = "sbom.cdx.json"
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def _cyclonedx() -> Any:
    """The library's classes; Any, because its decorators hide their types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cyclonedx.contrib.license.factories import LicenseFactory
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType, Pedigree
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    return SimpleNamespace(
        LicenseFactory=LicenseFactory, HashAlgorithm=HashAlgorithm, HashType=HashType, Bom=Bom, Component=Component,
        ComponentType=ComponentType, JsonV1Dot6=JsonV1Dot6, PackageURL=PackageURL, Pedigree=Pedigree, Property=Property,
    )  # fmt: skip


@dataclass(frozen=True)
class Materials:
    """What an SBOM lists."""

    name: str  # of the model, the component that it is about
    version: str
    licence: str | None
    tool: Mapping[str, str]  # version of what made it, by name
    files: Sequence[Path]  # the model's parts, inside the bundle
    needs: Sequence[str]  # distributions that it needs directly
    packages: Sequence[Installed]  # these, and what they need
    card: Mapping[str, Any] | None = None  # `modelCard` of the model
    lineage: Lineage = field(default_factory=Lineage)
    base_model: str | None = None  # what the checkpoint was fine-tuned from, as its card names it


def write_sbom(out: Path, materials: Materials) -> Path:
    """Write the SBOM of the bundle in the directory `out` and return its path.

    Files are listed with their hashes. No time and no random serial number: the serial is derived from everything else.
    """
    cdx, name, packages = _cyclonedx(), materials.name, materials.packages

    def licences(given: str | None) -> list:
        return [cdx.LicenseFactory().make_from_string(given)] if given else []

    def part(path: Path) -> Any:
        where = path.relative_to(out).as_posix()
        return cdx.Component(
            name=where,
            type=cdx.ComponentType.FILE,
            bom_ref=f"file:{where}",
            hashes=[cdx.HashType(alg=cdx.HashAlgorithm.SHA_256, content=sha256_of(path))],
        )

    model = cdx.Component(
        name=name,
        version=materials.version,
        type=cdx.ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{name}",
        licenses=licences(materials.licence),
        components=[part(path) for path in materials.files],
        pedigree=_pedigree(cdx, materials),
        properties=[
            cdx.Property(name=f"paredown:recipe:{key}", value=value)
            for key, value in (("sha256", materials.lineage.recipe), ("commit", materials.lineage.recipe_commit))
            if value
        ],
    )
    bom = cdx.Bom()
    bom.metadata.timestamp = None
    bom.metadata.component = model
    for made_with, its_version in sorted(materials.tool.items()):
        bom.metadata.tools.components.add(
            cdx.Component(
                name=made_with, version=its_version, type=cdx.ComponentType.APPLICATION, bom_ref=f"tool:{made_with}"
            )
        )
    libraries = {
        package.name: cdx.Component(
            name=package.name,
            version=package.version,
            type=cdx.ComponentType.LIBRARY,
            purl=cdx.PackageURL("pypi", None, package.name, package.version),
            bom_ref=f"pkg:pypi/{package.name}@{package.version}",
            licenses=licences(package.licence),
        )
        for package in packages
    }
    bom.components.update(libraries.values())
    bom.register_dependency(model, [libraries[need] for need in materials.needs if need in libraries])
    for package in packages:
        bom.register_dependency(libraries[package.name], [libraries[need] for need in package.needs])
    bom.serial_number = uuid5(NAMESPACE_URL, "paredown")
    content = json.loads(cdx.JsonV1Dot6(bom).output_as_string())
    if materials.card:
        content["metadata"]["component"]["modelCard"] = materials.card  # the library has no class for it
    content["serialNumber"] = uuid5(NAMESPACE_URL, json.dumps(content)).urn
    path = out / NAME
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _pedigree(cdx: Any, materials: Materials) -> Any:
    """The checkpoints, and the model that the first was fine-tuned from; None where nothing is known. A model of the
    Hub has a package URL (https://github.com/package-url/purl-spec, huggingface), another one the digests of its
    weights, or its name alone."""
    lineage, kind, found = materials.lineage, cdx.ComponentType.MACHINE_LEARNING_MODEL, []
    for number, source in enumerate(lineage.sources):
        files = [
            cdx.Component(
                name=name,
                type=cdx.ComponentType.FILE,
                bom_ref=f"checkpoint-file:{number}:{name}",
                hashes=[cdx.HashType(alg=cdx.HashAlgorithm.SHA_256, content=digest)],
            )
            for name, digest in source.weights.items()
        ]
        found.append(
            cdx.Component(
                name=source.name,
                version=source.commit,
                type=kind,
                bom_ref=f"checkpoint:{number}:{source.name}",
                purl=source.purl and cdx.PackageURL.from_string(source.purl),
                components=files,
            )
        )
    base = materials.base_model
    if base and (lineage.checkpoint is None or base != lineage.checkpoint.name):
        on_hub = HUB_ID.fullmatch(base) and not Path(base).is_dir()
        owner, _, name = base.rpartition("/")
        url = cdx.PackageURL("huggingface", owner or None, name) if on_hub else None
        shown = base if on_hub else Path(base).name
        found.append(cdx.Component(name=shown, type=kind, bom_ref=f"base-model:{shown}", purl=url))
    return cdx.Pedigree(ancestors=found) if found else None
