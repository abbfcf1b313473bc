"""Channels against a real receiver on loopback."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from regime_pipeline.adapters.notify.apprise_notifier import AppriseNotifier
from regime_pipeline.adapters.notify.channels import build_notifiers
from regime_pipeline.adapters.notify.dead_man import HttpDeadMan
from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.errors import ConfigError, NotifyError
from regime_pipeline.ports import Severity
from regime_pipeline.services.alert_kinds import build_message
from tests.alerts import NOW_S, an_alert

SECRET = "geheim123"
MESSAGE = build_message("alpha", "opened", an_alert(severity=Severity.CRITICAL), NOW_S, alert_id=7)


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent; answers with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.got: list[tuple[str, bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.got.append((self.path, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_apprise_delivers_title_body_and_urgency(receiver: Receiver) -> None:
    AppriseNotifier(SecretStr(f"json://me:{SECRET}@{receiver.address}/hook"), 1).send(MESSAGE)
    AppriseNotifier(SecretStr(f"json://{receiver.address}/hook"), 1).send(build_message("alpha", "resolved", an_alert(), NOW_S))
    first, second = (json.loads(body) for _, body in receiver.got)
    assert first["title"] == MESSAGE.title
    assert first["message"].splitlines()[0] == "freshness of 1m is wrong"
    assert (first["type"], second["type"]) == ("failure", "success")


def test_a_channel_that_refuses_or_is_away_is_an_error_without_its_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.status = 500
    refusing = AppriseNotifier(SecretStr(f"json://me:{SECRET}@{receiver.address}/{SECRET}"), 2)
    absent = AppriseNotifier(SecretStr(f"json://me:{SECRET}@127.0.0.1:1/{SECRET}"), 3)
    for notifier in (refusing, absent):
        with pytest.raises(NotifyError, match=f"channel {notifier.channel} did not take") as caught:
            notifier.send(MESSAGE)
        assert SECRET not in f"{caught.value!r} {notifier!r} {vars(notifier)['channel']}"
    own_lines = [record for record in caplog.records if record.name.startswith(("apprise", "regime"))]
    assert SECRET not in str([record.getMessage() for record in own_lines]) + "".join(capfd.readouterr())


def test_an_address_that_apprise_does_not_know_is_refused_by_its_place(receiver: Receiver) -> None:
    with pytest.raises(ConfigError, match="address number 2") as caught:
        build_notifiers(None, SecretStr(f"json://{receiver.address} nosuch://{SECRET}"))
    assert SECRET not in str(caught.value)


def test_channels_are_the_file_and_each_address(tmp_path: Path) -> None:
    notifiers = build_notifiers(tmp_path / "alerts.jsonl", SecretStr("json://a tgram://123456789:abcdefg_hijklmnop/12315544/"))
    assert [notifier.channel for notifier in notifiers] == ["file", "json-1", "tgram-2"]
    assert build_notifiers(None, None) == []


def test_the_file_gets_a_line_per_message_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "alerts.jsonl"
    for _ in range(2):
        FileNotifier(path).send(MESSAGE)
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0] == {"title": MESSAGE.title, "body": MESSAGE.body, **MESSAGE.fields}


def test_a_file_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotifyError, match="REGIME_ALERT_FILE"):
        FileNotifier(tmp_path / "file" / "alerts.jsonl").send(MESSAGE)


def test_the_dead_man_is_pinged_and_a_failure_names_no_address(receiver: Receiver) -> None:
    watchman = HttpDeadMan(SecretStr(f"http://{receiver.address}/{SECRET}"))
    watchman.ping()
    assert [path for path, _ in receiver.got] == [f"/{SECRET}"]
    receiver.status = 404
    with pytest.raises(NotifyError, match="answered 404") as refused:
        watchman.ping()
    with pytest.raises(NotifyError, match="did not answer") as away:
        HttpDeadMan(SecretStr(f"http://127.0.0.1:1/{SECRET}")).ping()
    assert SECRET not in f"{refused.value} {away.value}"
