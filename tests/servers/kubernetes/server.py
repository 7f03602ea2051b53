"""The cluster behind HTTP, as far as Helm speaks it: discovery, objects, lists, watches, server-side apply."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from servers.kubernetes.cluster import Cluster
from servers.kubernetes.kinds import Kind, Object
from servers.kubernetes.protobuf import MAGIC, decode_secret
from servers.kubernetes.refusal import NotFound, Refusal

MAX_BODY = 8 * 2**20
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class KubernetesServer:
    """`cluster` on a free port of the loopback interface, from `with` to its end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> KubernetesServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def kubeconfig(self) -> str:
        """A kubeconfig file's text for this server, in namespace `ns`."""
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [context],
                "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                "users": [{"name": "u", "user": {}}],
            }
        )


def _handler(server: KubernetesServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Requests):
        cluster = server.cluster
        stopping = server.stopping

    return Handler


class _Requests(BaseHTTPRequestHandler):
    cluster: Cluster
    stopping: threading.Event
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BODY))
        if url.path == "/openapi/v2":
            # asked for where version 3 does not name a kind; in protobuf, where a document that says nothing is empty
            self._send(HTTPStatus.OK, "")
            return
        try:
            answer = discovery(self.cluster, url.path) if self.command == "GET" else None
            if answer is None:
                answer = self._objects(url.path, query, body)
        except Refusal as refusal:
            self._send(refusal.status, refusal.body())
            return
        if answer is not None:
            self._send(HTTPStatus.CREATED if self.command == "POST" else HTTPStatus.OK, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  # names that http.server looks for

    def _send(self, status: HTTPStatus, answer: Object | str) -> None:
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _objects(self, path: str, query: dict[str, str], body: bytes) -> Object | str | None:
        kind, namespace, name, sub = self._target(path)
        manager = query.get("fieldManager") or (self.headers.get("User-Agent") or "unknown").split("/")[0]
        options = {"dry_run": query.get("dryRun") == "All"}
        cluster = self.cluster
        match self.command:
            case "GET" if sub == "log":
                return f"log of {name}\n"
            case "GET" if name:
                return cluster.get(kind, namespace, name)
            case "GET" if query.get("watch") in ("true", "1"):
                return self._watch(kind, namespace, query)
            case "GET":
                items, version = cluster.list(kind, namespace)
                wanted = selection(query)
                listed = [item for item in items if wanted(item)]
                metadata = {"resourceVersion": str(version)}
                return {
                    "apiVersion": kind.api_version,
                    "kind": f"{kind.kind}List",
                    "metadata": metadata,
                    "items": listed,
                }
            case "POST":
                return cluster.create(kind, namespace, decode(body), manager, **options)
            case "PUT":
                return cluster.replace(kind, namespace, decode(body), manager, **options)
            case "PATCH" if "apply-patch" in (self.headers.get("Content-Type") or ""):
                force = query.get("force") == "true"
                return cluster.apply(kind, namespace, decode(body), manager, force=force, **options)
            case "PATCH":
                return cluster.merge(kind, namespace, name, decode(body), manager, **options)
            case _:
                return cluster.delete(kind, namespace, name)

    def _target(self, path: str) -> tuple[Kind, str, str, str]:
        found = PATH.fullmatch(path)
        parts = {key: value or "" for key, value in found.groupdict().items()} if found else {}
        for kind in self.cluster.kinds:
            if found and (kind.group, kind.version, kind.plural) == (parts["group"], parts["version"], parts["plural"]):
                return kind, parts["namespace"], parts["name"], parts["sub"]
        raise NotFound("the server could not find the requested resource")

    def _watch(self, kind: Kind, namespace: str, query: dict[str, str]) -> None:
        """Stream changes, each a line of JSON, until the client goes or the server stops."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        wanted = selection(query)
        try:
            for change, item in self._changes(kind, namespace, query):
                if change == "BOOKMARK" or wanted(item):
                    self.wfile.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
        except OSError:
            return  # the client has what it wanted

    def _changes(self, kind: Kind, namespace: str, query: dict[str, str]) -> Iterator[tuple[str, Object]]:
        since = int(query.get("resourceVersion") or 0)
        if query.get("sendInitialEvents") == "true" or not since:
            items, since = self.cluster.list(kind, namespace)
            yield from (("ADDED", item) for item in items)
            metadata = {"resourceVersion": str(since), "annotations": INITIAL_EVENTS_END}
            if query.get("allowWatchBookmarks") == "true":
                yield "BOOKMARK", {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        for event in self.cluster.watch(kind, namespace, since, self.stopping.is_set):
            if event is not None:
                yield event.change, event.item


def decode(body: bytes) -> Object:
    """A request's object: protobuf, JSON, or YAML."""
    if body.startswith(MAGIC):
        return decode_secret(body)
    try:
        item = yaml.safe_load(body) if not body.startswith(b"{") else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise Refusal(f"the body is no object: {error}") from None
    if not isinstance(item, dict):
        raise Refusal("the body is no object")
    return item


def selection(query: dict[str, str]) -> Callable[[Object], bool]:
    """What `labelSelector` (equality alone) and `fieldSelector` (name and namespace) leave."""
    labels = _requirements(query.get("labelSelector", ""))
    fields = _requirements(query.get("fieldSelector", ""))

    def selected(item: Object) -> bool:
        metadata: dict[str, Any] = item["metadata"]
        of_fields = {f"metadata.{name}": metadata.get(name) for name in ("name", "namespace")}
        return all(
            (found.get(name) == value) is equal
            for found, wanted in ((metadata.get("labels", {}), labels), (of_fields, fields))
            for name, equal, value in wanted
        )

    return selected


def _requirements(selector: str) -> list[tuple[str, bool, str]]:
    found = []
    for part in filter(None, selector.split(",")):
        split = re.fullmatch(r"([^!=\s]+)\s*(==?|!=)\s*([^!=\s]*)", part.strip())
        if split is None:
            raise Refusal(f"this server knows no selector such as {part!r}")
        found.append((split[1], split[2] != "!=", split[3]))
    return found


# Discovery


def discovery(cluster: Cluster, path: str) -> Object | None:
    """What the server says of itself; None for a path that is about objects."""
    groups = sorted({(kind.group, kind.version) for kind in cluster.kinds if kind.group})
    versions = {f"/apis/{group}/{version}": (group, version) for group, version in groups} | {"/api/v1": ("", "v1")}
    if path == "/version":
        major, minor = cluster.kubernetes.split(".")[:2]
        return {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"apiVersion": "v1", "kind": "APIGroupList", "groups": [_group(*group) for group in groups]}
    if path in versions:
        group, version = versions[path]
        resources = [kind.described for kind in cluster.kinds if (kind.group, kind.version) == (group, version)]
        named = {"apiVersion": "v1", "groupVersion": f"{group}/{version}".lstrip("/")}
        return {"kind": "APIResourceList", **named, "resources": resources}
    if path == "/openapi/v3":
        return {"paths": {served[1:]: {"serverRelativeURL": f"/openapi/v3{served}"} for served in versions}}
    if (served := path.removeprefix("/openapi/v3")) in versions:
        kinds = [kind for kind in cluster.kinds if (kind.group, kind.version) == versions[served]]
        paths = {f"{served}/namespaces/{{namespace}}/{kind.plural}/{{name}}": _patch(kind) for kind in kinds}
        return {"openapi": "3.0.0", "info": {"title": served, "version": "v1"}, "paths": paths}
    return None


def _patch(kind: Kind) -> Object:
    """The one thing that clients look for in OpenAPI: that the server itself checks the fields of what it is sent."""
    named = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    parameter = {"name": "fieldValidation", "in": "query"}
    return {"patch": {"parameters": [parameter], "x-kubernetes-group-version-kind": named, "responses": {}}}


def _group(group: str, version: str) -> Object:
    named = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}
