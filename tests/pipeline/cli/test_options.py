"""Options that are made of the fields of settings."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from paredown.pipeline.cli.options import fields, with_options
from paredown.runtime.errors import InputError


class Inner(BaseModel):
    kind: Literal["small", "large"] = "small"
    size: int = 3


class Outer(BaseModel):
    rate: Annotated[float, Field(gt=0)] = Field(default=0.1, description="peak rate")
    steps: Annotated[int, Field(ge=1, le=9)] | None = Field(default=None, description="number of steps")
    layers: int | list[int] = Field(default=2, description="layers to keep")
    sizes: list[int] = Field(default_factory=list, description="sizes")
    names: list[str] = Field(default_factory=list, description="names")
    inner: Inner | None = Field(default=None, description="what is inside")
    file: Path | None = Field(default=None, description="a file")
    fast: bool = Field(default=False, description="be fast")


def invoke(*words: str, group: Any = None) -> tuple[Any, Any]:
    """(what a command received, how it ended)."""
    received: list[Any] = []
    app = typer.Typer()
    annotation = group or Annotated[Outer, fields(*Outer.model_fields, rate=0.5, sizes=None, names=None)]

    def command(given: Any, more: str = "none") -> None:
        """A command."""
        received.append((given, more))

    command.__annotations__["given"] = annotation
    app.command()(with_options(command))
    done = CliRunner().invoke(app, list(words))
    return (received[0] if received else None), done


def test_a_command_receives_settings() -> None:
    words = ("--rate", "2", "--steps", "4", "--layers", "0,2", "--sizes", "8", "--names", "a", "--names", "b")
    received, done = invoke(*words, "--inner", "large", "--file", "x.txt", "--fast", "--more", "yes")
    assert done.exit_code == 0, done.output
    assert received[1] == "yes"
    assert received[0] == Outer(
        rate=2, steps=4, layers=[0, 2], sizes=[8], names=["a", "b"], inner=Inner(kind="large"), file=Path("x.txt"),
        fast=True,
    )  # fmt: skip


def test_what_is_not_given_is_the_default_of_the_command_or_of_the_field() -> None:
    (settings, _), _ = invoke()
    assert settings == Outer(rate=0.5)
    assert not {"sizes", "names", "steps"} & settings.model_fields_set
    (given, _), _ = invoke("--rate", "3", group=Annotated[dict, fields("rate", "layers", of=Outer, layers=None)])
    assert given == {"rate": 3.0, "layers": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "-1"], r"^--rate: Input should be greater than 0 \(given: -1.0\)"),
        (["--steps", "10"], r"^--steps: Input should be less than or equal to 9 \(given: 10\)"),
        (["--layers", "a,b"], "^--layers a,b: a number such as 3, or a list such as 0,2,5"),
    ],
)
def test_a_wrong_value_names_its_option(words: list[str], message: str) -> None:
    _, done = invoke(*words)
    with pytest.raises(InputError, match=message):
        raise done.exception


def test_ranges_choices_and_help_come_from_the_fields() -> None:
    received, done = invoke("--inner", "huge")
    assert (received, done.exit_code) == (None, 2)
    assert "--inner" in done.output
    help = " ".join(invoke("--help")[1].output.replace("│", " ").split())
    assert "Peak rate." in help
    assert "Number of steps (1 to 9)." in help
    required = Annotated[dict, fields("file", of=Outer, file=..., spelled={"file": "--input"})]
    received, done = invoke(group=required)
    assert (received, done.exit_code) == (None, 2)
    assert "--input" in done.output
