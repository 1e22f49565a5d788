"""The command line: commands, parser, output. Only this package and the banner of `llb.server` print."""
