"""Normalization of request bodies: what clients write in many ways becomes the one way that the engine reads.

Pure. Nothing is dropped silently: a field is honoured, refused by its name, or listed in `ignored`.
"""
