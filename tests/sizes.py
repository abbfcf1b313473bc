"""How much the longest tests do.

The variables are taken out of the environment: the product refuses a REGIME_ variable that is no setting.
"""

import os

KILLS = int(os.environ.pop("REGIME_TEST_KILLS", "50"))
"""How many processes tests/faults/test_killed_live.py kills, at least."""
LIVE_MINUTES = int(os.environ.pop("REGIME_TEST_LIVE_MINUTES", "3"))
"""How many minutes tests/e2e/test_live.py watches."""
SCHEDULES = int(os.environ.pop("REGIME_TEST_SCHEDULES", "3000"))
"""How many seeded schedules of the order path tests/faults/test_schedules.py runs; a night's size is 100,000."""
KILL_CELLS = int(os.environ.pop("REGIME_TEST_KILL_CELLS", "60"))
"""How many processes of the order path tests/faults/test_kill_cells.py kills; the full matrix has at least 500."""
MACHINE_EXAMPLES, MACHINE_STEPS = (int(part) for part in os.environ.pop("REGIME_TEST_MACHINE", "60x30").split("x"))
"""Examples and steps of the state machine of the order path; a night's size is 5000x100, a release's 50000x100."""
