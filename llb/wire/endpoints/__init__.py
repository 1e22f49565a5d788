"""Endpoints and spill rules in the API."""
