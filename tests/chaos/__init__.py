"""Chaos: many clients over an own node, an endpoint and a cloud, under random faults."""
