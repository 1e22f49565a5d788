"""llb in front of engines elsewhere: added time of a request and of a chunk, and with many endpoints."""
