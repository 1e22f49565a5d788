"""Start of llb.pyz."""
