"""A folder of `storage.shards` on the Hugging Face Hub: one commit that replaces what was there, and the tag of its version.

The commit is the last thing that is sent, so a reader sees the old version or the new one. Files that arrived before something broke off
stay with the Hub under their SHA-256, and its client does not send them again. `pairmill.json` on the Hub says what it holds: the same
request is no commit at all, and a repository of another dataset is refused.

The token is an argument or the client's own (HF_TOKEN, `hf auth login`). It goes to the client and into no message: errors are written
anew here, because those of the client hold signed addresses, and because a server may repeat what it was sent.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import HubError
from storage.shards import ABOUT

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

PREFIX = "hf://"
CARD = "README.md"
OURS = {".gitattributes", CARD}
"""Files that a repository may have before anything was exported to it: the Hub makes them."""

_TOKEN = re.compile(r"hf_\w{6,}")
_AGAIN = "nothing was published, and the same command sends only what is missing"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What a repository holds. `sha`: its newest commit, null where there is no repository. `main`, `tagged`: the requests that
    `pairmill.json` names there and at the version's tag; `shards`: the files that an earlier export brought.
    """

    sha: str | None = None
    main: Mapping[str, Any] | None = None
    shards: tuple[str, ...] = ()
    tag_sha: str | None = None
    tagged: Mapping[str, Any] | None = None

    def holds(self, request: Mapping[str, Any]) -> bool:
        """Whether there is nothing to send: the newest commit is of that request, and so is the tag."""
        return self.main == request == self.tagged


def repository_of(target: str) -> str:
    """The repository that `hf://org/name` means, as `org/name`.

    Raises:
        HubError: it means none.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repo = target.removeprefix(PREFIX).removeprefix("datasets/")
    try:
        if not target.startswith(PREFIX) or repo.count("/") != 1:
            raise HFValidationError("there must be one owner and one name")
        validate_repo_id(repo)
    except HFValidationError as error:
        told = f"{target!r} names no repository on the Hub: {error}; write hf://OWNER/NAME, such as hf://my-org/my-dataset"
        raise HubError(_TOKEN.sub("hf_…", told)) from None
    return repo


def own_token() -> str | None:
    """The client's own token: HF_TOKEN, or that of `hf auth login`; null where there is neither."""
    from huggingface_hub import get_token

    return get_token()


def look(repo: str, request: Mapping[str, Any], *, token: str | None) -> Repository:
    """What is there for this request, once it is certain that the token may write and that nothing else is in the way.

    Raises:
        HubError: no token, one that may not write, a Hub that cannot be reached, or a repository, or a tag, that holds something else.
    """
    if not token:
        raise HubError(f"no token for {PREFIX}{repo}: set HF_TOKEN, run `hf auth login`, or name a Prefect Secret block in token_block")
    with _client(repo, token, f"nothing was sent to {PREFIX}{repo}") as api:
        if not _may_write(api, repo):
            return Repository()
        info, refs = api.dataset_info(repo), api.list_repo_refs(repo, repo_type="dataset")
        files = [sibling.rfilename for sibling in info.siblings or ()]
        about = _about(api, repo, str(info.sha)) if ABOUT in files else None
        if about is None:
            _check_empty(api, repo, str(info.sha), files)
        tag_sha = next((tag.target_commit for tag in refs.tags if tag.name == tag_of(request)), None)
        tagged = _about(api, repo, tag_sha) if tag_sha else None
    found = Repository(
        sha=info.sha,
        main=about["request"] if about else None,
        shards=tuple(name for name in about["files"] if name in files) if about else (),
        tag_sha=tag_sha,
        tagged=tagged["request"] if tagged else None,
    )
    _check_same(repo, found, request)
    return found


def push(
    repo: str, folder: Path, about: Mapping[str, Any], found: Repository, *, token: str, private: bool | None = None
) -> dict[str, Any]:
    """Send a folder to where `look` looked. Returns `commit` (null: there was none to make) and `tag`.

    Args:
        about: what `write_folder` returned.
        private: of a repository that is made now; null: as the owner's settings say.

    Raises:
        HubError: as `look`, or the upload broke off; nothing is published then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    request, sha, commit = about["request"], found.sha, None
    with _client(repo, token, _AGAIN) as api:
        if sha is None:
            _make(api, repo, private)
            sha = api.dataset_info(repo).sha
        if found.main != request:
            names = [*about["files"], ABOUT]
            gone = [CommitOperationDelete(path_in_repo=name) for name in found.shards if name not in names]
            added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
            message = f"{request['dataset']}@{request['version']}"
            told = f"digest {request['digest']}"
            made = api.create_commit(
                repo, [*added, *gone], commit_message=message, commit_description=told, repo_type="dataset", parent_commit=sha
            )
            sha = commit = made.oid
    with _client(repo, token, "the data is published, but its tag is not; the same command sets it") as api:
        if found.tagged != request:
            if found.tag_sha is not None:  # the same version with other views: a tag cannot be moved, only made anew
                api.delete_tag(repo, tag=tag_of(request), repo_type="dataset")
            api.create_tag(repo, tag=tag_of(request), revision=sha, repo_type="dataset")
    return {"commit": commit, "tag": tag_of(request)}


def url_of(repo: str, request: Mapping[str, Any]) -> str:
    """Where a person finds the version."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{repo}/tree/{tag_of(request)}"


def tag_of(request: Mapping[str, Any]) -> str:
    """The tag of a version on the Hub."""
    return f"v{request['version']}"


def _may_write(api: HfApi, repo: str) -> bool:
    """Whether there is such a repository; a token that may not write to it, or to none at all, is an error."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        api.auth_check(repo, repo_type="dataset", write=True)
    except RepositoryNotFoundError:
        if (api.whoami().get("auth") or {}).get("accessToken", {}).get("role") == "read":
            raise HubError(_forbidden(repo, api.endpoint)) from None
        return False
    return True


def _make(api: HfApi, repo: str, private: bool | None) -> None:
    """A new repository. One that is there already is one that `look` could not see."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(repo, repo_type="dataset", private=private)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        raise HubError(
            f"{PREFIX}{repo} is there, and was not to be seen with this token; give the token write access to it, "
            "or run the same command again if it was made this moment"
        ) from None


def _about(api: HfApi, repo: str, revision: str) -> dict[str, Any] | None:
    """`pairmill.json` of a revision; null where it has none that can be read."""
    try:
        about: dict[str, Any] = json.loads(_read(api, repo, ABOUT, revision) or b"")
        known = {"dataset": str, "version": int, "digest": str}
        whole = isinstance(about["files"], dict) and all(isinstance(about["request"][name], kind) for name, kind in known.items())
    except (ValueError, KeyError, TypeError):
        return None
    return about if whole else None


def _read(api: HfApi, repo: str, path: str, revision: str) -> bytes | None:
    """A small file of a revision; null where it has none. Not `hf_hub_download`, which takes a Hub that cannot be reached for that."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    try:
        url = f"{api.endpoint}/datasets/{repo}/resolve/{revision}/{path}"
        response = get_session().get(url, headers=build_hf_headers(token=api.token, library_name="pairmill"))
        hf_raise_for_status(response)
        return bytes(response.content)
    except EntryNotFoundError:
        return None


def _check_empty(api: HfApi, repo: str, sha: str, files: list[str]) -> None:
    """Refuse a repository with files that no export brought. The card that the Hub makes of a licence has a head and no text."""
    others = [name for name in files if name not in OURS]
    if not others and CARD in files:
        text = (_read(api, repo, CARD, sha) or b"").decode(errors="replace")
        others = [CARD] if re.sub(r"\A---\n.*?\n---", "", text, flags=re.DOTALL).strip() else []
    if others:
        raise HubError(f"{PREFIX}{repo} holds files that no export brought ({', '.join(others[:3])}); give another repository")


def _check_same(repo: str, found: Repository, request: Mapping[str, Any]) -> None:
    name, version, tag = request["dataset"], request["version"], tag_of(request)
    if found.main is not None and found.main["dataset"] != name:
        raise HubError(f"{PREFIX}{repo} holds the dataset {found.main['dataset']}, not {name}; give another repository")
    if found.tag_sha is None:
        return
    if found.tagged is None:
        raise HubError(f"{PREFIX}{repo} has a tag {tag} that no export set; delete it there, or give another repository")
    if (found.tagged["dataset"], found.tagged["version"], found.tagged["digest"]) != (name, version, request["digest"]):
        raise HubError(
            f"{PREFIX}{repo} has another {name}@{version} as {tag} (digest {found.tagged['digest'][:12]}, here {request['digest'][:12]}); "
            "versions never change: give another repository"
        )


@contextmanager
def _client(repo: str, token: str, kept: str) -> Iterator[HfApi]:
    """The Hub's client, silent but for its bars on a terminal. `kept`: what is true when it fails."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, silent = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(logging.ERROR)  # what it logs of a retry has the signed address
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token, library_name="pairmill")
    try:
        yield api
    except HubError:
        raise
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        raise HubError(_safe(f"{_told(error, repo, api.endpoint)}; {kept}", token)) from None
    finally:
        logging.set_verbosity(level)
        if not silent:
            enable_progress_bars()


def _told(error: BaseException, repo: str, endpoint: str) -> str:
    """What the client's error means, without addresses."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of one file among several
    where = f"{PREFIX}{repo}" if cause is error else f"{PREFIX}{repo}: {error}"
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{where}: HF_HUB_OFFLINE is set; unset it to export"
    if isinstance(cause, HfHubHTTPError):
        return _answered(cause, where, repo, endpoint)
    if isinstance(cause, ValueError):
        return f"{where}: the Hub refused it: {cause}"
    return f"{where}: {endpoint} cannot be reached or broke off ({type(cause).__name__}: {str(cause)[:300]})"


def _answered(error: HfHubHTTPError, where: str, repo: str, endpoint: str) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    status = error.response.status_code
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"{where}: the Hub does not know the token; make one at {endpoint}/settings/tokens"
    if status == 403:
        return _forbidden(repo, endpoint)
    if status in (409, 412):
        return f"{where} was changed by somebody else meanwhile; run the same command again"
    return f"{where}: the Hub answered {status}{f' ({error.server_message})' if error.server_message else ''}"


def _forbidden(repo: str, endpoint: str) -> str:
    return f"the token may not write to {PREFIX}{repo}; make one with write access at {endpoint}/settings/tokens, as a member of the owner"


def _safe(message: str, token: str) -> str:
    """One line without the token, or anything like one."""
    return " ".join(_TOKEN.sub("hf_…", message.replace(token, "hf_…")).split())
