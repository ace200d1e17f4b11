"""The commands `plan` and `step`: a run whose steps a scheduler starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import SharedStore, out

app = typer.Typer()

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
OfRun = Annotated[
    Path | None,
    typer.Option(help="Run directory; shared by all machines where there is no --store (default: runs/NAME)."),
]


@app.command()
def plan(
    recipe: RecipeFile,
    output_dir: OfRun = None,
    format: Annotated[Literal["json", "dot"], typer.Option(help="JSON, or a graph of Graphviz.")] = "json",
) -> None:
    """Print the steps of a recipe and what each one waits for, for a scheduler."""
    from ..graph import dot, planned_run
    from ..job import prepare
    from ..recipe.loader import read_recipe
    from ..run import default_run_dir

    given = read_recipe(recipe)
    found = planned_run(prepare(given, try_models=False), output_dir or default_run_dir(given, recipe))
    print(dot(found) if format == "dot" else found.model_dump_json(by_alias=True, indent=1))


@app.command()
def step(
    recipe: RecipeFile,
    name: Annotated[str, typer.Argument(help="Name of the step, as `paredown plan` has it.")],
    output_dir: OfRun = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Output of `paredown plan`: refuse where the step's inputs differ on this machine."),
    ] = None,
    store: SharedStore = None,
) -> None:
    """Do one step of a recipe; those that it waits for have to be done. `run` then selects and packs."""
    from ..graph import do_step, read_plan
    from ..recipe.loader import read_recipe
    from ..run import default_run_dir

    given = read_recipe(recipe)
    wanted = None if plan is None else read_plan(plan)
    done, now = do_step(given, output_dir or default_run_dir(given, recipe), name, wanted, store)
    out.print(f"{done.path}{'' if now else ': already there'}", soft_wrap=True)
