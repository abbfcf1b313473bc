"""Alerts as JSON lines in a file: for tests, for log shippers, and for a machine without network."""

import json
import os
from pathlib import Path
from typing import Final

from regime_pipeline.errors import NotifyError
from regime_pipeline.ports import Message

MODE: Final = 0o600


class FileNotifier:
    """Appends one JSON object per message; it is on the disk when `send` returns.

    Parameters
    ----------
    path : Path
        Created with its folder on first use, readable by its owner only; may be rotated away at any time.
    """

    channel = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, message: Message) -> None:
        """Append one line.

        Raises
        ------
        NotifyError
            When the file cannot be written.
        """
        line = json.dumps({"title": message.title, "body": message.body, **message.fields}, ensure_ascii=False) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
            try:
                os.write(file, line.encode())  # one write: lines of two processes never mix
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise NotifyError(
                f"alert file {self._path} was not writable: {error.strerror}. Correct REGIME_ALERT_FILE or the folder."
            ) from error
