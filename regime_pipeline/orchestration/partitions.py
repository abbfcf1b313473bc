"""The one partitioning: UTC days. Instruments and minutes are rows, because pages slow down past some 25,000 partitions."""

from datetime import UTC, datetime
from typing import Final

import dagster as dg

FIRST_DAY: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""Older than any bar of the recorded market; a day without bars costs nothing but its square in the UI."""

# end_offset: the day that is not over yet is a partition too, or the minute job would have none to write to.
UTC_DAYS: Final = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
