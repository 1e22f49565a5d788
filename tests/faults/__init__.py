"""Faults of docs/reliability.md that no other test covers."""
