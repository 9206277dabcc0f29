"""Migrations of the schema, in the order of their numbers. One that has been released never changes."""
