"""llb in front of engines elsewhere: what it adds to a request, to a chunk, and with many endpoints."""
