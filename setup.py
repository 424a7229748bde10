"""List the packages: the four top-level folders are installed as amma.<folder> (see package-dir in pyproject.toml)."""

from setuptools import find_packages, setup

ROOTS = ("manifests", "featurize", "train", "evaluate")
PATTERNS = [pattern for root in ROOTS for pattern in (root, f"{root}.*")]

setup(packages=["amma", *(f"amma.{name}" for name in find_packages(include=PATTERNS))])
