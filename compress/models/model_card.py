"""The model card of a checkpoint (the YAML head of README.md) and its licence, handed on to what is made of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from paredown.runtime.errors import InputError

CARD = "README.md"
SIZE_LIMIT = 1_000_000  # bytes
INHERITED = ("license", "license_name", "license_link", "language", "base_model")


def card_head(checkpoint: Path) -> dict:
    """The YAML head of the checkpoint's README.md; empty where there is none that can be read."""
    path = checkpoint / CARD
    try:
        if path.stat().st_size > SIZE_LIMIT:
            return {}
        text = path.read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("\n---", 1)[0][3:]) if text.startswith("---\n") else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return head if isinstance(head, dict) else {}


def hub_name(checkpoint: Path) -> tuple[str, str | None]:
    """(OWNER/NAME, commit) of a snapshot in the Hub's cache, (directory's name, None) of another checkpoint.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache: models--OWNER--NAME/snapshots/COMMIT.
    """
    path = checkpoint.absolute()
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/"), path.name
    return path.resolve().name, None


def origin_files(checkpoint: Path) -> list[Path]:
    """The files that say what may be done with a checkpoint: LICENSE*, NOTICE* and its card, sorted by name.

    Raises InputError for a link that leads out of its directory; of a snapshot in the Hub's cache, out of that cache.
    """
    home = checkpoint.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    found = [p for p in sorted(checkpoint.glob("*")) if p.name.startswith(("LICENSE", "NOTICE")) or p.name == CARD]
    for path in found:
        if not any(path.resolve().is_relative_to(inside) for inside in (home, blobs)):
            raise InputError(f"{path}: a link that leads out of the checkpoint; put the file itself there")
    return [path for path in found if path.is_file()]


def inherit(source: Path, out: Path) -> None:
    """Write a README.md with the licence, language and base model of `source`; its text and figures are not ours."""
    head = {key: value for key, value in card_head(source).items() if key in INHERITED}
    if head:
        (out / CARD).write_text(f"---\n{yaml.safe_dump(head, allow_unicode=True)}---\n", encoding="utf-8")
