"""Fuzzing of all parsers of external input: `python -m tests.fuzz --cases 100000`."""
