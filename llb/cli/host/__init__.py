"""Commands about what this host runs, beside the server."""
