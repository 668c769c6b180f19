"""`python -m pbft` is the command `pbft`."""

import sys

from pbft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
