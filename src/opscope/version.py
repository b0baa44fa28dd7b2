"""The version of opscope, for what is written down with it."""

__version__ = "0.1.0"
