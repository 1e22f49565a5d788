"""Front: the door of inference requests, beside Sanic's on the same connections."""
