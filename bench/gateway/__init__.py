"""The gateway compared with others, in front of a mock engine: `python -m bench.gateway`."""
