"""What several hosts must show, on real networks: each module is one command, and its short form is a test in `tests/lab`."""
