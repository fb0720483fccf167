"""Storing on a DICOMweb server: what is refused or unreachable is said in one sentence. The server is on loopback."""

import json
import re
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from threading import Thread

import pydicom
import pytest
from make_files import ct_values, write_dicom

from zerotumor import stow
from zerotumor.errors import ServerError


class Server(HTTPServer):
    """Answers every POST with `status` and `answer` (JSON) and keeps what it got."""

    status, answer = 200, {}

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str | None, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers.get("Authorization"), body))
        content = json.dumps(self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as one:
        Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def datasets(tmp_path):
    folder = write_dicom(tmp_path / "series", ct_values())
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())[:2]]


def stored(body):
    """DICOM objects in a multipart body."""
    parts = body.split(b"--0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1")[1:-1]
    return [pydicom.dcmread(BytesIO(part.split(b"\r\n\r\n", 1)[1])) for part in parts]


@pytest.mark.parametrize("size", [10, 600])
def test_objects_arrive(server, datasets, size):
    for dataset in datasets:  # the second size is sent in chunks
        dataset.PixelData, dataset.Rows, dataset.Columns = b"\1\2" * size**2, size, size
    stow.push(server.url + "/", datasets)
    ((path, login, body),) = server.got
    assert path == "/dicom-web/studies" and login is None
    assert [d.SOPInstanceUID for d in stored(body)] == [d.SOPInstanceUID for d in datasets]


def test_name_and_password_are_sent_and_never_shown(server, datasets):
    url = server.url.replace("http://", "http://me:s%40fe@")
    stow.push(url, datasets)
    assert server.got[0][1] == "Basic bWU6c0BmZQ=="
    server.status = 401
    with pytest.raises(ServerError) as error:
        stow.push(url, datasets)
    assert "s%40fe" not in str(error.value) and "s@fe" not in str(error.value)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500])
def test_a_refusal_is_told(server, datasets, status):
    server.status = status
    with pytest.raises(ServerError, match=f"refused the result .HTTP {status}.*the file is kept") as error:
        stow.push(server.url, datasets)
    assert "\n" not in str(error.value)


def test_an_object_that_was_not_stored_is_told(server, datasets):
    failed = {"00081197": {"vr": "US", "Value": [43264]}}
    server.answer = {"00081198": {"vr": "SQ", "Value": [failed]}}
    with pytest.raises(ServerError, match="did not store 1 of 2 objects .failure reason 43264"):
        stow.push(server.url, datasets)


def test_no_server(datasets):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"
    with pytest.raises(ServerError, match=re.escape(url) + " could not be reached"):
        stow.push(url, datasets)


def test_a_silent_server_does_not_hold_the_run(datasets, monkeypatch):
    monkeypatch.setattr(stow, "TIMEOUT", (1, 0.3))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ServerError, match="could not be reached or did not answer"):
            stow.push(f"http://127.0.0.1:{silent.getsockname()[1]}", datasets)


@pytest.mark.parametrize("url", ["", "localhost:8042", "ftp://server/x", "http://", "http://[", "http://host:port/"])
def test_an_address_that_is_none(url):
    with pytest.raises(ServerError, match="begins with http"):
        stow.split_url(url)
