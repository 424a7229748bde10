"""AMMA: learn one protein representation from sequence, structure and function text."""

from importlib.metadata import version

__version__ = version("amma")
