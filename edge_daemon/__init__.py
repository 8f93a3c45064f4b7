"""Edge inspection daemon: camera to gate, and no part passes without its own fresh PASS."""

__version__ = "0.1.0"
