"""`python -m tutelage`, and the `tutelage` command."""

import sys

from tutelage.cli import main


def run() -> None:
    """Run the command line and exit with its code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
