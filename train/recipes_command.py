"""`amma-train recipes`: which recipes there are, and the text of one."""

from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, print_json


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|FILE", help="Print this one, with its comments; all are listed if not given."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the recipes that come with amma, or print one: a file to copy, change and give to --recipe."""
    from amma.train.run.recipe import built_in, find_recipe

    if name is not None:
        recipe = find_recipe(name)
        if as_json:
            print_json({"name": recipe.name, "recipe": recipe.head, **recipe.values})
        else:
            print(recipe.text, end="")
        return
    found = {name: find_recipe(name) for name in built_in()}
    if as_json:
        print_json([{"name": name, **recipe.head} for name, recipe in found.items()])
        return
    width = max(map(len, found))
    for name, recipe in found.items():
        needs = "".join(f"; needs --{option.replace('_', '-')}" for option in recipe.head.get("requires", {}))
        print(f"{name:{width}}  {recipe.head['about']}{needs}")
