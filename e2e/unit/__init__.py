"""Unit tests of the page's pure modules, run by `e2e/test_units.py` in the browser they are written for."""
