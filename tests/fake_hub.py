"""A Hub of one repository on this machine, for the real client to talk to."""

import contextlib
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class FakeHub:
    """Serves folders as revisions of ``org/name``; remembers the requests.

    Parameters
    ----------
    revisions : dict of Path
        Folder of each branch or tag in COMMITS.
    """

    def __init__(self, revisions):
        self.revisions = revisions
        self.requests, self.connections = [], []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                hub.connections.append(self.connection)

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        """Be gone: also for clients that keep their connection."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, request):
        """Answer one request."""
        path = unquote(request.path).partition("?")[0]
        self.requests.append((request.command, path))
        api, files = "/api/models/org/name/", "/org/name/resolve/"
        if path.startswith(api):
            kind, _, rest = path.removeprefix(api).partition("/")
            folder, commit = self._revision(rest.partition("/")[0])
            if folder is None:
                return self._fail(request, "RevisionNotFound")
            if kind == "tree":
                return self._send_json(request, self._tree(folder))
            return self._send_json(
                request, {"id": "org/name", "sha": commit, "siblings": []}
            )
        if path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            folder, commit = self._revision(revision)
            content = (folder / name).read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{blob(content)}"'}
            return self._send(request, 200, content, headers)
        return self._fail(request, "RepoNotFound")

    def _revision(self, name):
        for revision, folder in self.revisions.items():
            if name in (revision, COMMITS[revision]):
                return folder, COMMITS[revision]
        return None, None

    def _tree(self, folder):
        return [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": blob(path.read_bytes()),
            }
            for path in sorted(folder.iterdir())
        ]

    def _send_json(self, request, content):
        self._send(request, 200, json.dumps(content).encode(), {})

    def _fail(self, request, code):
        self._send(request, 404, b"{}", {"X-Error-Code": code})

    def _send(self, request, status, content, headers):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def blob(content):
    """Git's name of a file's content."""
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content).hexdigest()
