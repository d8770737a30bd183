"""The study: laws and claims of batch normalization, measured."""

from xhat.study.run import run

__all__ = ["run"]
