"""The command: parse, call, and show. All work is done by the library."""

from xhat.cli.main import main

__all__ = ["main"]
