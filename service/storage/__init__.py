"""The port to the bytes, and the storages."""
