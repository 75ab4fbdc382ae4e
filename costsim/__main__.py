"""`python -m costsim`."""

import sys

from costsim.cli import main

sys.exit(main())
