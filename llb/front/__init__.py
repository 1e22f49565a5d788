"""Front: inference requests answered without Sanic, on the same connections as all others."""
