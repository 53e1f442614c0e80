"""The commands: one verb a file, each with its options and what it prints. No logic lives here.

`main(argv)` runs a command line inside this process and returns its exit code.
"""

from undense_command import main

__all__ = ["main"]
