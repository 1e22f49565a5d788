"""Spill rules: another model answers where a rule says so."""
