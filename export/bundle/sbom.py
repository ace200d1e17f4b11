"""sbom.cdx.json: the software bill of materials as CycloneDX 1.6; the same bundle gives the same bytes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from .environment import Installed

NAME = "sbom.cdx.json"


def _cyclonedx() -> Any:
    """The library's classes; Any, because its decorators hide their types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cyclonedx.contrib.license.factories import LicenseFactory
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    return SimpleNamespace(
        LicenseFactory=LicenseFactory, HashAlgorithm=HashAlgorithm, HashType=HashType, Bom=Bom, Component=Component,
        ComponentType=ComponentType, JsonV1Dot6=JsonV1Dot6, PackageURL=PackageURL,
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


def write_sbom(out: Path, materials: Materials) -> Path:
    """Write the SBOM of the bundle in the directory `out` and return its path.

    Files are listed with their hashes. No time and no random serial number: the serial is derived from everything else.
    """
    cdx, name, packages = _cyclonedx(), materials.name, materials.packages

    def licences(given: str | None) -> list:
        return [cdx.LicenseFactory().make_from_string(given)] if given else []

    def part(path: Path) -> Any:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        where = path.relative_to(out).as_posix()
        return cdx.Component(
            name=where,
            type=cdx.ComponentType.FILE,
            bom_ref=f"file:{where}",
            hashes=[cdx.HashType(alg=cdx.HashAlgorithm.SHA_256, content=digest)],
        )

    model = cdx.Component(
        name=name,
        version=materials.version,
        type=cdx.ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{name}",
        licenses=licences(materials.licence),
        components=[part(path) for path in materials.files],
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
    bom.serial_number = uuid5(NAMESPACE_URL, cdx.JsonV1Dot6(bom).output_as_string())
    path = out / NAME
    path.write_text(cdx.JsonV1Dot6(bom).output_as_string(indent=2) + "\n")
    return path
