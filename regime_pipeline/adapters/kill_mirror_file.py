"""The mirror of live orders in a file beside the latch, for a kill without a database."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from regime_pipeline.adapters.latch_file import locked, write_whole
from regime_pipeline.ports.kill_mirror import MirroredAccount, MirroredOrder
from regime_pipeline.risk.purpose import Leg

MIRROR_NAME: Final = "kill_mirror.json"


@dataclass(frozen=True, slots=True)
class MirrorFile:
    """`KillMirror` in the file at `path`, for our own user alone."""

    path: Path

    def save(self, account: MirroredAccount) -> None:
        """Replace what is kept of one account; a failure raises OSError and leaves the old text."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.path.with_suffix(".lock")):
            others = [known for known in self.load() if known.account != account.account]
            write_whole(self.path, _write([*others, account]))

    def load(self) -> tuple[MirroredAccount, ...]:
        """Load all accounts; none where nothing was ever kept or it cannot be read: then the venue's own listing must do."""
        try:
            return tuple(_read(fields) for fields in json.loads(self.path.read_text(encoding="utf-8"))["accounts"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return ()


def _write(accounts: Iterable[MirroredAccount]) -> str:
    return json.dumps({"accounts": [asdict(account) for account in accounts]}, indent=1) + "\n"


def _read(fields: Mapping[str, Any]) -> MirroredAccount:
    orders = tuple(MirroredOrder(**{**each, "leg": Leg(each["leg"])}) for each in fields["orders"])
    return MirroredAccount(str(fields["account"]), int(fields["at_s"]), tuple(str(symbol) for symbol in fields["symbols"]), orders)
