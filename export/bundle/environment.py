"""The distributions that a bundle's requirements install: version, licence and size on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from typing import cast

# package -> what it names and a bundle does not use: a tokenizer is a file, the client of the hub would be 19 MB more
UNUSED = {
    "tokenizers": frozenset({"huggingface-hub"}),
    # what the exporter needs; the bindings that run a program import PyTorch alone
    "executorch": frozenset(
        {"coremltools", "expecttest", "flatbuffers", "hydra-core", "hypothesis", "kgb", "mpmath", "omegaconf",
         "packaging", "pandas", "parameterized", "py-cpuinfo", "pytorch-tokenizers", "pyyaml", "requests",
         "ruamel-yaml", "scikit-learn", "sympy", "tabulate", "torchao", "typing-extensions"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """A distribution as it is installed here."""

    name: str
    version: str
    bytes: int  # on disk, as its RECORD lists the files
    licence: str | None  # as its metadata put it
    needs: tuple[str, ...]  # names of those in the same list that it depends on


def installed(packages: Iterable[str]) -> list[Installed]:
    """The distributions of `packages` and everything they need here, sorted by name; extras are not followed.

    What is not installed, or not used by a bundle (UNUSED), is left out.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import NormalizedName, canonicalize_name

    found: dict[str, Installed] = {}
    waiting = [canonicalize_name(package) for package in packages]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        needs: set[NormalizedName] = set()
        for line in distribution.requires or []:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needs.add(canonicalize_name(requirement.name))
        needs -= UNUSED.get(name, set())
        waiting.extend(needs)
        sizes = (file.locate() for file in distribution.files or [])
        found[name] = Installed(
            name,
            distribution.version,
            sum(path.stat().st_size for path in sizes if path.is_file() and path.suffix != ".pyc"),  # type: ignore[union-attr]
            _licence(cast(Message, distribution.metadata)),
            tuple(sorted(needs)),
        )
    return [
        Installed(d.name, d.version, d.bytes, d.licence, tuple(n for n in d.needs if n in found))
        for _, d in sorted(found.items())
    ]


def _licence(fields: Message) -> str | None:
    """The SPDX expression, the short name, or the classifier; None where the metadata holds a whole licence text."""
    given = fields.get("License-Expression") or fields.get("License") or ""
    if given and len(given) < 80 and "\n" not in given:
        return given
    classifiers = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    return classifiers[0] if classifiers else None
