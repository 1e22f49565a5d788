"""Repositories of the stand-in, and the JSON and errors of the Hub about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.hub.content import Content
from tests.hub.http import ParsedRequest, ResponseRaised


@dataclass
class Repo:
    """Repository: commits (each a set of files), branches, and statistics."""

    name: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    downloads: int = 0
    likes: int = 0
    last_modified: str = "2026-01-01T00:00:00.000Z"
    gated: bool = False
    tags: tuple[str, ...] = ("gguf", "license:apache-2.0")


def error_response(status: int, code: str | None, message: str) -> ResponseRaised:
    """Return an error of the Hub: `X-Error-Code`, and the message in `X-Error-Message` and the body."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return ResponseRaised(status, {"error": message}, headers)


class Repositories:
    """Repositories by name, and the tokens that are valid."""

    def __init__(self) -> None:
        self._repos: dict[str, Repo] = {}
        self._tokens: dict[str, frozenset[str]] = {}

    def add(self, name: str, contents: Mapping[str, Content], commit: str | None) -> tuple[Repo, str]:
        """Add a commit and point `main` at it; its default name is a hash of the content."""
        if commit is None:
            text = "\n".join(
                [name, *(f"{file} {content.sha256}" for file, content in sorted(contents.items()))]
            )
            commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        repo = self._repos.setdefault(name, Repo(name))
        repo.commits[commit] = dict(contents)
        repo.refs["main"] = commit
        return repo, commit

    def __getitem__(self, name: str) -> Repo:
        return self._repos[name]

    def get(self, name: str) -> Repo | None:
        return self._repos.get(name)

    def remove(self, name: str) -> None:
        del self._repos[name]

    def add_token(self, token: str, licences: Iterable[str]) -> None:
        self._tokens[token] = frozenset(licences)

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the token of an Authorization header, or None. Raises for an invalid token."""
        if authorization is None:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self._tokens:
            raise error_response(401, None, "Invalid credentials in Authorization header")
        return token

    def require_repo(self, authorization: str | None, name: str) -> Repo:
        """Return a repository that the token may see. Raises if there is none."""
        token = self.authenticate(authorization)
        if (repo := self._repos.get(name)) is None:
            # The Hub does not tell strangers whether a repository is missing or private.
            if token is None:
                raise error_response(401, "RepoNotFound", "Invalid username or password.")
            raise error_response(404, "RepoNotFound", "Repository not found")
        return repo

    def resolve_commit(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise error_response(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def require_file(self, repo: Repo, commit: str, file: str) -> Content:
        if (content := repo.commits.get(commit, {}).get(file)) is None:
            raise error_response(404, "EntryNotFound", "Entry not found")
        return content

    def check_licence(self, repo: Repo, authorization: str | None) -> None:
        if not repo.gated:
            return
        about = f"Access to model {repo.name} is restricted"
        token = self.authenticate(authorization)
        if token is None:
            raise error_response(
                401,
                "GatedRepo",
                f"{about}. You must have access to it and be authenticated to access it. Please log in.",
            )
        if repo.name not in self._tokens[token]:
            raise error_response(
                403, "GatedRepo", f"{about} and you are not in the authorized list. Visit its page."
            )

    def model_info(self, repo: Repo, commit: str, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return the JSON of `GET /api/models/{repo}`, limited by `expand`; sizes and hashes with `blobs`."""
        facts: dict[str, Any] = {
            "sha": commit,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "lastModified": repo.last_modified,
            "tags": list(repo.tags),
            "gated": "manual" if repo.gated else False,
            "private": False,
            "siblings": [
                {"rfilename": name} | (self._blob_info(content) if "blobs" in query else {})
                for name, content in repo.commits[commit].items()
            ],
        }
        if "expand" in query:
            facts = {name: facts[name] for name in query["expand"] if name in facts}
        return {"_id": commit[:24], "id": repo.name, "modelId": repo.name, **facts}

    @staticmethod
    def _blob_info(content: Content) -> dict[str, Any]:
        lfs = {"lfs": {"sha256": content.sha256, "size": content.size, "pointerSize": 134}}
        return {"blobId": content.git_oid, "size": content.size} | (lfs if content.is_lfs else {})

    def list_files(
        self, repo: Repo, commit: str, listing: str, folder: str | None, incoming: ParsedRequest
    ) -> list[dict[str, Any]]:
        """Return the files of a commit: the requested ones (`paths-info`), or all of a folder (`tree`)."""
        wanted: list[str] | None = None
        if listing == "paths-info":
            if incoming.headers.get("content-type", "").startswith("application/json"):
                wanted = list(json.loads(incoming.body or b"{}").get("paths", []))
            else:
                wanted = parse_qs(incoming.body.decode()).get("paths", [])
        entries = []
        for name, content in repo.commits[commit].items():
            asked_for = name.startswith(folder or "") if wanted is None else name in wanted
            if not asked_for:
                continue
            lfs = {"lfs": {"oid": content.sha256, "size": content.size, "pointerSize": 134}}
            entry = {"type": "file", "oid": content.git_oid, "size": content.size, "path": name}
            entries.append(entry | (lfs if content.is_lfs else {}))
        return entries
