"""Decisions about endpoints: names, addresses, dialects, health. Pure."""
