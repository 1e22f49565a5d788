"""Attacks on one host and two while a victim goes on asking: `python -m tests.attack --minutes 20`."""
