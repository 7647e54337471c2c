"`python -m vtg_r1.cli`."

import sys

from . import main

sys.exit(main())
