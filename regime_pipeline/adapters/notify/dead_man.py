"""The dead-man ping: a GET that says all is well. The service behind it warns when it stops, so it also covers what we cannot notice."""

from typing import Final

from pydantic import SecretStr

from regime_pipeline.errors import NotifyError

TIMEOUT_S: Final = 5.0


class HttpDeadMan:
    """Pings an address such as healthchecks.io gives; the address is a secret and in no error.

    Parameters
    ----------
    address : SecretStr
        http:// or https://; any answer below 400 counts as heard.
    """

    def __init__(self, address: SecretStr) -> None:
        self._address = address

    def ping(self) -> None:
        """Tell that all is well.

        Raises
        ------
        NotifyError
            When nobody answers within 5 s, or with an error.
        """
        import requests

        try:
            # the time-out bounds connecting and each read; of the answer only the head is read
            with requests.get(self._address.get_secret_value(), timeout=TIMEOUT_S, stream=True) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            raise NotifyError(f"the dead-man address did not answer ({type(error).__name__}). Check REGIME_DEAD_MAN_URL.") from None
        if status >= 400:
            raise NotifyError(f"the dead-man address answered {status}. Check REGIME_DEAD_MAN_URL.")
