"""`python -m perturbox`: the command line where its script isn't on the path."""

import sys

from perturbox.cli import main

sys.exit(main())
