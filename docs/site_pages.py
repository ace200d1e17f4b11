"""Pages of the documentation site that are not files in docs/ (a hook of MkDocs, see mkdocs.yml).

The README, CONTRIBUTING and CHANGELOG are pages too, and the reference of commands, recipe and Python API is written
from the program itself.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PACKAGE = ROOT / "build" / "site-source" / "paredown"  # links to the folders that are the package
FOLDERS = ("runtime", "tasks", "compress", "export", "benchmarks", "serve", "pipeline")


def on_startup(**_: object) -> None:
    shutil.rmtree(PACKAGE, ignore_errors=True)
    PACKAGE.mkdir(parents=True)
    for name in ("__init__.py", *FOLDERS):
        (PACKAGE / name).symlink_to(ROOT / name)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in COPIED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        files.append(File.generated(config, f"recipes/{recipe.name}", abs_src_path=str(recipe)))
    for name, content in (("commands", commands()), ("recipe", recipe_keys()), ("python", python())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links as they are on the site: everything beside the page, where the repository has folders."""
    for source, page in COPIED.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({page}", markdown)
    return markdown.replace("](docs/", "](").replace("](../recipes/", "](recipes/")


def commands() -> str:
    """Every command with its options, from the program's own help."""
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from paredown.pipeline.cli.main import app

    command = get_command(app)
    return get_docs_for_click(obj=command, ctx=Context(command), name="paredown", title="Commands")


def recipe_keys() -> str:
    """Every key of a recipe, from its JSON schema, the sections in their order."""
    from paredown.pipeline.recipe.schema import Recipe

    schema = Recipe.model_json_schema()
    lines = [
        "# Recipe",
        "",
        "Every key, its type, its default and what it means. `paredown init --full` writes all of them into a recipe.",
    ]
    sections = [("Top level", schema), *schema["$defs"].items()]
    for name, section in sections:
        if "properties" not in section:
            continue
        about = "" if section is schema else section.get("description", "")
        lines += ["", f"## {name}", "", about, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in section["properties"].items():
            default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
            default = "required" if key in section.get("required", ()) else default
            cells = (f"`{key}`", _type(field), default, field.get("description", ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(field: dict[str, Any]) -> str:
    """What a field of a JSON schema takes, in words; another section is a link."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for several in ("anyOf", "oneOf", "allOf"):
        if several in field:
            return " or ".join(_type(part) for part in field[several])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    limits = [
        f"{sign} {field[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return " ".join([str(field.get("type", "any")), *limits])


def python() -> str:
    """What `import paredown` has, from the docstrings."""
    import paredown

    lines = ["# Python API", "", "[From Python](../python.md) has examples of it."]
    for name in (*paredown.CALLABLE, *paredown.FUNCTIONS, *paredown.TYPES):
        lines += ["", f"::: paredown.pipeline.api.{name}"]
    for name in paredown.ERRORS:
        lines += ["", f"::: paredown.runtime.errors.{name}"]
    return "\n".join(lines) + "\n"
