"""Runs of real client programs against llb: environments, recording of requests, results, document."""
