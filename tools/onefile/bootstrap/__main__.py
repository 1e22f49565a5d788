"""Start of llb.pyz with any Python. This module also has to compile with those that are too old for llb."""

import importlib
import os
import sys

OLDEST = (3, 11)
NAMES = ("python3.13", "python3.12", "python3.11")


def main():  # type: ignore[no-untyped-def]
    """Run llb, or replace this process by a newer Python that does."""
    program_file = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info >= OLDEST:
        importlib.import_module("llb_bootstrap").main(program_file)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in NAMES:
            python = os.path.join(folder, name)
            if folder and os.access(python, os.X_OK):
                os.execv(python, [python, program_file] + sys.argv[1:])
    sys.stderr.write("llb: Python 3.11 or newer is needed, this is %d.%d.\n" % sys.version_info[:2])
    sys.exit(1)


if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]
