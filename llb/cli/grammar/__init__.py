"""Arguments of the command line: commands, flags, help."""
