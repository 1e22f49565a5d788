"""Attacks on one host and two during a victim's requests: `python -m tests.attack --minutes 20`."""
