"""Commands about this host, other than the server."""
