"""The command line. Each command is a few lines over a room that does the work, imported when it is called."""

from lycia.cli.main import app, main

__all__ = ["app", "main"]
