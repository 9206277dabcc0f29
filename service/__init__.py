"""A service that takes files, promises to keep them, and processes them in the background."""

__version__ = "0.1.0"
