"""How much the longest tests do.

The variables are taken out of the environment: the product refuses a REGIME_ variable that is no setting.
"""

import os

KILLS = int(os.environ.pop("REGIME_TEST_KILLS", "50"))
"""How many processes tests/faults/test_killed_live.py kills, at least."""
LIVE_MINUTES = int(os.environ.pop("REGIME_TEST_LIVE_MINUTES", "3"))
"""How many minutes tests/e2e/test_live.py watches."""
