"""The port to what gets jobs run, and the engines."""
