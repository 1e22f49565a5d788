"""Chaos: many clients over an own node, an engine elsewhere and a cloud, while these fail in every way."""
