"""Log of the process: format, ids of requests, text that cannot reach a terminal."""
