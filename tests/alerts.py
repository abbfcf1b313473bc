"""Fakes and pieces for tests of alerts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from regime_pipeline.errors import NotifyError
from regime_pipeline.ports import Alert, AlertKind, Message, Notice, OpenAlert, Severity
from regime_pipeline.services.alert_kinds import read_modes
from regime_pipeline.services.raise_alerts import AlertRules

NOW_S = 1_767_225_600  # 2026-01-01T00:00Z


def an_alert(
    kind: AlertKind = AlertKind.FRESHNESS, scope: str = "1m", severity: Severity = Severity.WARNING, since_s: int = NOW_S
) -> Alert:
    return Alert(kind, scope, severity, f"{kind} of {scope} is wrong", since_s)


def rules(modes: str = "", channels: Sequence[str] = ("file",)) -> AlertRules:
    return AlertRules("alpha", read_modes(modes), channels)


@dataclass
class FakeNotifier:
    """A list with a memory; refuses while `refuses` is set."""

    channel: str = "file"
    refuses: bool = False
    sent: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        if self.refuses:
            raise NotifyError(f"channel {self.channel} is shut")
        self.sent.append(message)


@dataclass
class FakeBox:
    """The unsent messages of a channel."""

    notices: list[Notice]
    sent: list[int] = field(default_factory=list)

    def load_unsent(self) -> list[Notice]:
        return [notice for notice in self.notices if notice.notice_id not in self.sent]

    def mark_sent(self, notice_ids: Sequence[int], now_s: int) -> None:
        self.sent += notice_ids

    def mark_failed(self, notice_ids: Sequence[int], error: str) -> None:
        self.notices = [replace(each, attempts=each.attempts + (each.notice_id in notice_ids)) for each in self.notices]


@dataclass
class FakeAlertStore:
    """Alerts and boxes in memory."""

    known: list[OpenAlert] = field(default_factory=list)
    ended: list[tuple[int, OpenAlert]] = field(default_factory=list)
    boxes: dict[str, FakeBox] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    posted: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def open_book(self) -> Iterator["FakeAlertStore"]:
        yield self

    @contextmanager
    def open_outbox(self, channel: str) -> Iterator[FakeBox | None]:
        yield None if channel in self.busy else self.boxes[channel]

    def load_backlogs(self, tried_before_s: int) -> Mapping[str, object]:
        return {}

    def load_open(self) -> list[OpenAlert]:
        return list(self.known)

    def load_ended(self, after_s: int) -> list[OpenAlert]:
        return [each for at_s, each in self.ended if at_s > after_s]

    def open(self, alert: Alert, now_s: int) -> int:
        self.known.append(OpenAlert(len(self.known) + len(self.ended) + 1, alert, now_s, now_s, None, is_acked=False))
        return self.known[-1].alert_id

    def renew(self, alert_id: int, alert: Alert, now_s: int) -> None:
        self.known += [each for _, each in self.ended if each.alert_id == alert_id]
        self.ended = [(at_s, each) for at_s, each in self.ended if each.alert_id != alert_id]
        self.known = [replace(each, alert=alert, last_seen_s=now_s) if each.alert_id == alert_id else each for each in self.known]

    def resolve(self, alert_id: int, now_s: int) -> None:
        self.ended += [(now_s, each) for each in self.known if each.alert_id == alert_id]
        self.known = [each for each in self.known if each.alert_id != alert_id]

    def post(self, alert_id: int, event: str, message: Message, channels: Sequence[str], now_s: int) -> None:
        self.known = [self._told(each, alert_id, event, now_s) for each in self.known]
        self.ended = [(at_s, self._told(each, alert_id, event, now_s)) for at_s, each in self.ended]
        self.posted.append((event, message.title))

    @staticmethod
    def _told(each: OpenAlert, alert_id: int, event: str, now_s: int) -> OpenAlert:
        return replace(each, noticed_s=now_s, is_told_over=event == "resolved") if each.alert_id == alert_id else each
