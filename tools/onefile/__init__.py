"""Build of llb.pyz, the single file: `python -m tools.onefile`, see docs/packaging.md."""
