"""The gateway beside others, in front of a mock engine: `python -m bench.gateway`."""
