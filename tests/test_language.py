"""Help texts, errors, recipe descriptions, pages, docstrings and comments: the field's terms, no banned words."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

from paredown.pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("benchmarks", "compress", "export", "pipeline", "runtime", "serve", "tasks")
COMMENTED = (*SOURCES, "tests")  # whose docstrings and comments are held to the terms
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What the field calls otherwise: the pattern, and the word to write instead.
BANNED = {
    r"\bheal(s|ed|ing)?\b": "fine-tuning after pruning",
    r"\b(cut|cuts|cutting|recut)\b(?! off\b)": "prune, pruned model; truncate (a text); tokenise (into tokens)",
    r"\bcut off\b": "truncated",
    r"\buncut\b": "unpruned",
    r"\blook(s|ed|ing)? (at|for|inside|into)\b": "evaluate; use; see; search for",
    r"\b(further|another|a|each|many) looks?\b": "evaluation",
    r"\b(small|several|one) push(es)?\b|\bpush(es)? of\b|\bpush(es)? the (word |)embeddings\b": "perturbation",
    r"\b(gone|goes|go|going|went) on with\b": "continued; text generation",
    r"\bas (it|they) c(a|o)me(s)?\b": "original",
    r"\bthe house\b": "folders, pipeline",
    r"\brooms?\b": "folder, memory",
    r"\balike\b": "similar",
    r"\b(taught|teach|teaches|teaching|untaught)\b": "trained, distilled",
    r"\bwhole (model|teacher|head|layer|checkpoint)s?\b": "unpruned model",
    r"\bother half\b": "private key, public key",
    r"\bhalf (that|which) writes\b|\bmodels? (that|which) writes?\b": "decoder, text-to-text model",
    r"\bstand-ins?\b": "surrogate",
    r"\banswered with\b": "generated",
    r"\bheld against\b": "compared with",
    r"\btold apart\b": "distinguished",
    r"\bfurther away\b": "larger distance",
    r"\bthe pick\b|\bpicks? (is|are|was|be) made\b|\bpicked\b": "selection, selected",
    r"\bhouse\b": "project",
}
# The results page is written by scripts from the names of old recipes; code blocks and inline code are not prose.
NAMES = re.compile(r"^```.*?^```|<!-- coverage.*-->|`[^`\n]*`|\]\([^)]*\)|https?://\S+", re.M | re.S)


def prose(page: str) -> str:
    """A page without code, links and written tables; the lines are kept."""
    return NAMES.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), page)


def banned(text: str) -> list[str]:
    return [
        f"{found.group()!r} -> {instead}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"
        for pattern, instead in BANNED.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]


def helps() -> Iterator[tuple[str, str]]:
    """(command and parameter, its help)."""

    def walk(name: str, command: object) -> Iterator[tuple[str, str]]:
        yield name, getattr(command, "help", None) or ""
        for parameter in getattr(command, "params", []):
            if parameter.name not in ("help", "install_completion", "show_completion"):
                yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
        for inner, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {inner}", below)

    yield from walk("paredown", get_command(app))


def messages(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string inside a `raise`; fields of f-strings stand as {}."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            inside = {
                id(part) for text in ast.walk(node.exc) if isinstance(text, ast.JoinedStr) for part in text.values
            }
            for text in ast.walk(node.exc):
                if isinstance(text, ast.JoinedStr):
                    parts = (str(p.value) if isinstance(p, ast.Constant) else "{}" for p in text.values)
                    yield text.lineno, "".join(parts)
                elif isinstance(text, ast.Constant) and isinstance(text.value, str) and id(text) not in inside:
                    yield text.lineno, text.value


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every line of a docstring, and of every comment."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False) or ""
            yield from ((node.body[0].lineno + i, line) for i, line in enumerate(text.splitlines()))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def descriptions(schema: object, at: str = "") -> Iterator[tuple[str, str]]:
    """(path, description) of every field of a JSON schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("description"), str):
            yield at, schema["description"]
        for key, value in schema.items():
            yield from descriptions(value, f"{at}/{key}")


def test_a_help_text_is_a_sentence() -> None:
    wrong = [f"{name}: {text!r}" for name, text in helps() if not re.match(r"^[A-Z].*\.$", text, re.DOTALL)]
    assert not wrong, "\n".join(wrong)


def test_help_texts_use_the_terms_of_the_field() -> None:
    wrong = [f"{name}: {found}" for name, text in helps() for found in banned(text)]
    assert not wrong, "\n".join(wrong)


def banned_in(folders: Sequence[str], texts_of: Callable[[str], Iterable[tuple[int, str]]]) -> list[str]:
    """Where a text of a source file has a banned word. `texts_of`: (line, text) of each text in a file's content."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {found}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in texts_of(path.read_text())
        for found in banned(text)
    ]


def test_error_messages_use_the_terms_of_the_field() -> None:
    wrong = banned_in(SOURCES, messages)
    assert not wrong, "\n".join(wrong)


def test_recipe_descriptions_use_the_terms_of_the_field() -> None:
    schema = json.loads((ROOT / "recipes" / "schema.json").read_text())
    wrong = [f"{at}: {found}" for at, text in descriptions(schema) for found in banned(text)]
    assert not wrong, "\n".join(wrong)


def test_docstrings_and_comments_use_the_terms_of_the_field() -> None:
    wrong = banned_in(COMMENTED, prose_of)
    assert not wrong, "\n".join(wrong)


def test_every_docstring_and_comment_is_read() -> None:
    source = '"""A house."""\n\n\nclass A:\n    """One,\n    two."""\n\n    b = 1  # cut here\n'
    assert sorted(prose_of(source)) == [(1, "A house."), (5, "One,"), (6, "    two."), (8, "# cut here")]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "results.md"], ids=lambda page: page.name)
def test_pages_use_the_terms_of_the_field(page: Path) -> None:
    lines = prose(page.read_text()).splitlines()
    wrong = [f"{page.name}:{number}: {found}" for number, line in enumerate(lines, 1) for found in banned(line)]
    assert not wrong, "\n".join(wrong)


def test_the_newest_changes_use_the_terms_of_the_field() -> None:
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    wrong = [found for line in prose(newest).splitlines() for found in banned(line)]
    assert not wrong, "\n".join(wrong)
