"""The version, which every file that is written names."""

__all__ = ["__version__"]

__version__ = "0.1.0"
