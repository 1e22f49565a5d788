"""The command line: commands, their parser and their output. No other package prints, except the banner of `llb.server`."""
