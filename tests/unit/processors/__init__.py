"""Tests of the processors and of what runs them; no server, no database, real files."""
