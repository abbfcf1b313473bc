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
LATE_REQUESTS = int(os.environ.pop("REGIME_TEST_LATE_REQUESTS", "100"))
"""How many creates tests/faults/test_wire.py lets arrive late; a night's size is 10,000."""
TICK_ROUNDS = int(os.environ.pop("REGIME_TEST_TICK_ROUNDS", "20"))
"""How many bars tests/faults/test_ticks.py lets three ticks decide at once; a night's size is 300."""
TWO_OF_ALL_MINUTES = int(os.environ.pop("REGIME_TEST_TWO_MINUTES", "1"))
"""How long tests/e2e/test_two_of_all.py lets two daemons and two executors work on one account; the issue says 5."""
LOST_COMMITS = int(os.environ.pop("REGIME_TEST_LOST_COMMITS", "24"))
"""How many answers to COMMIT tests/faults/test_database.py loses; the row of the fault catalogue says 100."""
