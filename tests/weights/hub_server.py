"""A fake Hugging Face hub in memory, with the routes that the client uses.

Source: the requests of huggingface_hub 2.4 and the responses that it expects.
"""

import asyncio
import base64
import hashlib
import json
import threading
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_" + "SeCrEt" * 5


class HubError(Exception):
    """An error response."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": " ".join(message.split())}
        headers |= {"X-Error-Code": code} if code else {}
        self.response = JSONResponse({"error": message}, status, headers)


class Repository:
    """The files of each commit; a commit's hash is its number."""

    def __init__(self, *, private: bool = False, **files: bytes) -> None:
        self.private = private
        self.gated = False
        self.commits = [{".gitattributes": b"*.safetensors filter=lfs\n"} | files]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return f"{len(self.commits) - 1:040x}"

    def at(self, revision: str) -> dict[str, bytes]:
        known = {f"{number:040x}": files for number, files in enumerate(self.commits)}
        known["main"] = self.files
        if revision not in known:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return known[revision]


class Hub:
    """The state of the hub, and its web application.

    Attributes:
      repositories: By name; names of datasets start with `datasets/`.
      stored: Large files, by SHA-256, committed or not.
      requests: Method and path of each request.
      fail: Error responses for paths that contain a text.
      stall: Whether large files after the first `stall_after` are never received; `stalled` is
        set when one hangs.
    """

    def __init__(self) -> None:
        self.reset()
        routes: list[tuple[str, str, Any]] = [
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", self._validate),
            ("PUT", "/large/{oid}", self._put),
        ]
        for kind, prefix in (("models", ""), ("datasets", "/datasets")):
            api, files = f"/api/{kind}/{{owner}}/{{name}}", f"{prefix}/{{owner}}/{{name}}"
            routes += [
                ("GET", api, self._info),
                ("GET", api + "/revision/{revision}", self._info),
                ("GET", api + "/tree/{revision}", self._tree),
                ("POST", api + "/preupload/{revision}", self._preupload),
                ("POST", files + ".git/info/lfs/objects/batch", self._batch),
                ("POST", api + "/commit/{revision}", self._commit),
                ("GET", files + "/resolve/{revision}/{path:path}", self._resolve),
            ]
        # Match `/datasets/` first, so that it is not taken for the owner of a model.
        routes.sort(key=lambda route: "/datasets" not in route[1])
        self.app = Starlette(
            routes=[Route(path, self._answer(do), methods=[verb]) for verb, path, do in routes]
        )

    def reset(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: dict[str, HubError] = {}
        self.stall, self.stall_after = False, 1
        self.stalled = threading.Event()

    def asked(self, method: str, text: str) -> list[str]:
        """Returns the paths of requests with this method that contain a text."""
        return [path for verb, path in self.requests if verb == method and text in path]

    def _answer(self, do: Any) -> Any:
        async def answer(request: Request) -> Response:
            path = urlsplit(str(request.url)).path
            self.requests.append((request.method, path))
            try:
                for text, error in self.fail.items():
                    if text in path:
                        raise error
                token = request.headers.get("authorization", f"Bearer {TOKEN}")
                if token != f"Bearer {TOKEN}":
                    raise HubError(401, "Invalid credentials in Authorization header")
                if request.method == "POST" and "authorization" not in request.headers:
                    raise HubError(401, "Invalid username or password.")
                return await do(request)
            except HubError as error:
                return error.response

        return answer

    def _repository(self, request: Request) -> Repository:
        is_dataset = "/datasets/" in request.url.path
        prefix = "datasets/" if is_dataset else ""
        found = self.repositories.get(prefix + "{owner}/{name}".format(**request.path_params))
        if found is None or (found.private and "authorization" not in request.headers):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return found

    async def _info(self, request: Request) -> Response:
        repository = self._repository(request)
        repository.at(revision := request.path_params.get("revision", "main"))
        return JSONResponse(
            {
                "id": "{owner}/{name}".format(**request.path_params),
                "sha": repository.sha if revision == "main" else revision,
                "private": repository.private,
                "siblings": [{"rfilename": name} for name in repository.files],
            }
        )

    async def _tree(self, request: Request) -> Response:
        files = self._repository(request).at(request.path_params["revision"])
        return JSONResponse(
            [
                {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
                for name, data in files.items()
            ]
        )

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        prefix = "datasets/" if asked.get("type") == "dataset" else ""
        name = f"{prefix}{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            raise HubError(409, "You already created this model repo")
        self.repositories[name] = Repository(private=asked["visibility"] == "private")
        return JSONResponse({"url": f"{request.base_url}{name}"})

    async def _validate(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: Request) -> Response:
        held = self._repository(request).at(request.path_params["revision"])
        return JSONResponse(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                        "shouldIgnore": False,
                        "oid": oid(file["path"], held[file["path"]])
                        if file["path"] in held
                        else None,
                    }
                    for file in (await request.json())["files"]
                ]
            }
        )

    async def _batch(self, request: Request) -> Response:
        self._repository(request)
        objects = (await request.json())["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.stored:
                href = f"{request.base_url}large/{wanted['oid']}"
                wanted["actions"] = {"upload": {"href": href}}
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put(self, request: Request) -> Response:
        if self.stall and len(self.asked("PUT", "/large/")) > self.stall_after:
            self.stalled.set()
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            return Response(status_code=499)
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != request.path_params["oid"]:
            raise HubError(400, "hash mismatch")
        self.stored[request.path_params["oid"]] = data
        return Response()

    async def _commit(self, request: Request) -> Response:
        repository = self._repository(request)
        files = dict(repository.files)
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", repository.sha) != repository.sha:
                raise HubError(412, "A commit has happened since")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if key == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            if key == "deletedFile":
                del files[value["path"]]
        repository.commits.append(files)
        url = "{owner}/{name}/commit/".format(**request.path_params) + repository.sha
        return JSONResponse({"commitUrl": f"{request.base_url}{url}", "commitOid": repository.sha})

    async def _resolve(self, request: Request) -> Response:
        repository, path = self._repository(request), request.path_params["path"]
        files = repository.at(revision := request.path_params["revision"])
        if repository.gated:
            raise HubError(403, "Access to this model is restricted", "GatedRepo")
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{oid(path, files[path])}"', "X-Repo-Commit": revision}
        return Response(files[path], headers=headers)


def is_large(path: str) -> bool:
    """Whether the hub stores a file in LFS."""
    return path.endswith((".safetensors", ".bin", ".parquet"))


def oid(path: str, data: bytes) -> str:
    """Returns the hub's id of a file's content."""
    return hashlib.sha256(data).hexdigest() if is_large(path) else git_hash(data)


def git_hash(data: bytes) -> str:
    """Returns the git hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
