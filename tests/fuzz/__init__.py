"""Everything that is read from somebody else, given what nobody should send: `python -m tests.fuzz --cases
100000`.
"""
