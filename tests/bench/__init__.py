"""Tests of the measurements: each runs, on a small scale."""
