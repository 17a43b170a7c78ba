"""A small Weights & Biases server on this machine, for the real SDK: takes runs, and misbehaves when it is told to."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS = {"500": 500, "401": 401, "403": 403}
TELEMETRY = "/sdk/otel/"


class WandbServer:
    """Listens from its making to `close`.

    Attributes:
        behaviour: of the next request: ok | hang | 500 | 401 | 403 | garbage.
        hangs_for: operations that hang whatever the behaviour: `UpsertBucket`.
        history: rows by run, as uploaded.
        tags, groups: by run.
        artifacts: what was said of each artefact: name, type, run.
        views: specifications of saved views.
        operations: names of the GraphQL operations and paths that were asked, in order. Without the SDK's own
            telemetry, which it sends whenever it likes.
    """

    def __init__(self, behaviour: str = "ok") -> None:
        self.behaviour = behaviour
        self.hangs_for: set[str] = set()
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.tags: dict[str, list[str]] = {}
        self.groups: dict[str, str] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self._released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:  # the name that http.server calls
                server.answer(self)

            do_GET = do_PUT = do_POST

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        self._http = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        """From now on connections are refused."""
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if request.path.endswith("/graphql") else {}
        query = asked.get("query", "")
        words = query.replace("(", " ").split()
        operation = words[1] if len(words) > 1 else ""
        if not request.path.startswith(TELEMETRY):
            self.operations.append(operation or request.path)
        if self.behaviour == "hang" or operation in self.hangs_for:
            self._released.wait(60)
            return
        if self.behaviour == "garbage":
            request.wfile.write(b"\x00\xffno http\r\n\r\n")
            return
        if self.behaviour in STATUS:
            self._send(request, {"data": None}, STATUS[self.behaviour])
            return
        if "/file_stream" in request.path:
            self._take_rows(request.path, json.loads(body))
        self._send(request, {"data": self._data(query, asked.get("variables") or {})})

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
        text = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def _take_rows(self, path: str, sent: dict[str, Any]) -> None:
        run = path.split("/")[-2]
        new = sent.get("files", {}).get("wandb-history.jsonl")
        if new:
            rows = self.history.setdefault(run, [])
            rows[new["offset"] :] = [json.loads(line) for line in new["content"]]

    def _data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        viewer = {
            "id": "u", "entity": "me", "name": "me", "username": "me", "email": "", "admin": False, "flags": "{}",
            "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": []},
        }  # fmt: skip
        if "upsertBucket" in query:
            name = given.get("name") or given["id"]
            if given.get("tags") is not None:
                self.tags[name] = given["tags"]
            if given.get("groupName"):
                self.groups[name] = given["groupName"]
            return {"upsertBucket": {"bucket": self._run(name), "inserted": True}}
        if "createArtifact(" in query:  # one that is there already needs no upload
            self.artifacts.append(given)
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "query ArtifactType(" in query:  # there is none of this name yet
            return {"project": {"artifact": None}}
        if "upsertView" in query:
            self.views.append(given)
            return {"upsertView": {"view": {"id": "v", "name": "nw-abc-v", "displayName": "", "spec": "{}"},
                                   "inserted": True}}  # fmt: skip
        if "createRunFiles" in query:  # a wrong answer would crash the SDK's service
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if "project(" in query:
            return {"project": {"internalId": "1", "run": self._run(given.get("name") or given.get("run", ""))}}
        return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "9.0.0"}}}

    def _run(self, name: str) -> dict[str, Any]:
        project = {"id": "p", "name": "akdtune", "entity": {"id": "e", "name": "me"}}
        return {
            "id": name, "name": name, "displayName": name, "projectId": "1", "tags": self.tags.get(name, []),
            "config": "{}", "description": "", "notes": "", "sweepName": None, "state": "finished", "group": "g",
            "jobType": "search", "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00", "historyLineCount": 0, "historyKeys": None, "user": {"name": "me",
            "username": "me"}, "summaryMetrics": "{}", "systemMetrics": "{}", "project": project,
            "fileCount": 0, "files": {"edges": []}, "sweep": None,
        }  # fmt: skip
