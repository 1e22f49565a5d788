"""A long run of two hosts under mixed traffic and random faults: `python -m tests.soak --minutes 20`."""
