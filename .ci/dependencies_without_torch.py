"""Print what the installed wheel needs, less torch and the extras."""

from importlib.metadata import requires

for requirement in requires("amma") or []:
    if "extra ==" not in requirement and not requirement.startswith("torch"):
        print(requirement)
