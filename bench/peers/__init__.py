"""Measurements with several hosts on real networks: each module is one command; a short form is a test
in `tests/lab`.
"""
