"""Runs the command line as `python -m piperfs`, where the script is not installed.

Tests and tools use it to run exactly the checkout that they lie in.
"""

from piperfs.cli.entry import main

if __name__ == "__main__":
    main()
