"""Texts for people, with codes from which they can be made in other languages."""
