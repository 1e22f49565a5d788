"""Endpoints: engines elsewhere and clouds, as further places that answer requests."""
