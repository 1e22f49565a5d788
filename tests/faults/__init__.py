"""The rows and columns of docs/reliability.md that no other test holds already."""
