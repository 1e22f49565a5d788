"""The commands. This package is the only place that prints for people, beside the greeting of the server."""

from llb.cli.main import main

__all__ = ["main"]
