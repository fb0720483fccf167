"""DICOM objects to a DICOMweb server (STOW-RS)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit, urlunsplit
from xml.etree.ElementTree import ParseError

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter
from retrying import RetryError

from .errors import ServerError

TIMEOUT = (10, 120)  # seconds to connect, and between bytes: a server may take a while to store
BAD_ANSWER = (
    requests.RequestException, RetryError, ParseError, InvalidDicomError, ValueError, LookupError, TypeError,
    AttributeError,
)  # fmt: skip
"""What asking a DICOMweb server and reading its answer can raise, whatever it sends in place of DICOM."""


class _Ending(HTTPAdapter):
    """Requests that end: without a timeout a silent server would hold a whole run."""

    def send(self, *args, timeout: float | tuple | None = None, **kwargs) -> requests.Response:
        return super().send(*args, timeout=timeout or TIMEOUT, **kwargs)


def bound_waits(client: DICOMwebClient) -> None:
    """Let no request of a client wait for ever or be repeated for long; who it logs in as stays."""
    for scheme in ("http://", "https://"):
        client._session.mount(scheme, _Ending())
    client.set_http_retry_params(retry=True, max_attempts=2, wait_exponential_multiplier=250)


def split_url(url: str) -> tuple[str, tuple[str, str] | None]:
    """URL of a DICOMweb server without name and password, fit to be shown, and these.

    Raises:
        ServerError: it is no http or https address.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ServerError(
            "the address of a DICOMweb server begins with http:// or https://, such as http://localhost:8042/dicom-web"
        )
    where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return urlunsplit((parts.scheme, where, parts.path.rstrip("/"), "", "")), login


def push(url: str, datasets: Sequence[Dataset]) -> None:
    """Store DICOM objects on a DICOMweb server.

    Args:
        url: the service's root, such as http://localhost:8042/dicom-web; may hold name:password@.

    Raises:
        ServerError: it is not reached, or refuses any of them. Files on disk are not touched either way.
    """
    shown, login = split_url(url)
    session = requests.Session()
    session.auth = login
    client = DICOMwebClient(shown, session=session)
    bound_waits(client)
    store(client, datasets, shown)


def store(client: DICOMwebClient, datasets: Sequence[Dataset], shown: str | None = None) -> None:
    """Store DICOM objects through a client that is there already; `shown` is how messages call the server.

    Raises:
        ServerError: as `push`.
    """
    shown = shown or split_url(client.base_url)[0]
    try:
        answer = client.store_instances(datasets)
    except requests.HTTPError as error:
        status = f"{error.response.status_code} {error.response.reason or ''}".strip()
        raise ServerError(
            f"{shown} refused the result (HTTP {status}): check the address and your rights; the file is kept"
        ) from error
    except BAD_ANSWER as error:
        raise ServerError(
            f"{shown} could not be reached or did not answer as a DICOMweb server ({type(error).__name__}): check the "
            "address and that it runs; the file is kept"
        ) from error
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        reasons = ", ".join(sorted({str(item.get("FailureReason", "?")) for item in failed}))
        raise ServerError(
            f"{shown} did not store {len(failed)} of {len(datasets)} objects (failure reason {reasons}): look into the "
            "server's log; the file is kept"
        )
