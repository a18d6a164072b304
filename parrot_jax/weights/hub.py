"""Downloads models from the Hugging Face hub; uploads models and datasets. Does not import jax.

huggingface_hub takes the token from the environment variable HF_TOKEN or from `hf auth login`; no
error message contains it. A push is one commit, so a concurrent download gets either the old or the
new files.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from parrot_jax.core.errors import ParrotError, UserError, disk_full_is_a_user_error
from parrot_jax.core.logs import console
from parrot_jax.core.paths import file_in
from parrot_jax.weights.exports import check_hash, known_hashes
from parrot_jax.weights.hf_folder import HfFolder

if TYPE_CHECKING:
    import huggingface_hub

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_TOKEN = re.compile(r"Bearer\s+\S+|\bhf_\w{20,}")

_WANTED = (
    "config.json", "adapter_config.json", "generation_config.json", "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.model", "tokenizer*.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
# Second copies of the weights: in subfolders, or in Meta's or Mistral's format.
_UNWANTED = ("*/*", "consolidated*")

_NOT_SENT = ("parrot_export.json", "*.tmp-*", ".*")
# Files that transformers and vLLM load if present. E.g. transformers prefers a `model.safetensors`
# of an earlier export to the shards of this one.
_LOADED = ("*.safetensors", "*.bin", "*.pth", "*.json", "*.jinja", "tokenizer.model")

_TIMEOUT_S = 30
_MAX_CHARS = 300
_ADVICE = {
    401: "set the environment variable HF_TOKEN to a token of https://huggingface.co/settings/tokens",
    403: "set the environment variable HF_TOKEN to a token with this permission, and check the "
    "name",
    412: "the repository changed during the upload: run the same command again",
    429: "wait a little and run the same command again",
}


RepoKind = Literal["model", "dataset"]
"""Type of a repository."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The files of a push."""

    kind: RepoKind
    files: Mapping[str, Path]
    """By name in the repository."""
    left_here: Sequence[str] = ()
    """Names in the folder that are not sent."""
    replaces: Callable[[str], bool]
    """Whether an existing file of the repository, by name, must be deleted if it is not sent."""


def local_folder(source: str, *, revision: str | None = None) -> Path:
    """Returns the folder, or downloads a repository of the hub into the hub's cache.

    Args:
      source: A folder, or `org/name` on the hub. Config, safetensors and tokenizer are downloaded
        unless they are cached; without a network, the cached files are used.
      revision: On the hub: a branch, a tag or a commit; None = main.

    Raises:
      UserError: There is no such folder or repository, access is denied, or it has no safetensors.
      DiskFullError: The cache's disk is full.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise UserError(
                f"{source} is a local folder, so the revision {revision!r} does not apply: omit it."
            )
        return Path(source)
    if Path(source).exists() or not _NAME.fullmatch(source):
        raise UserError(
            f"{source} is neither a folder nor a repository name (org/name) of the Hugging Face "
            "hub."
        )
    import huggingface_hub
    from huggingface_hub import constants

    what = f"{source} in {constants.HF_HUB_CACHE} (set HF_HOME to move it)"
    with _one_line_errors(source, revision), disk_full_is_a_user_error(what):
        downloaded = huggingface_hub.snapshot_download(
            source,
            revision=revision,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
        )
    folder = Path(downloaded)
    if not any(folder.glob("*.safetensors")):
        with _one_line_errors(source, revision):
            names = huggingface_hub.HfApi().list_repo_files(source, revision=folder.name)
        raise UserError(_without_safetensors(source, names))
    return folder


def address_of(source: str, *, revision: str | None = None) -> str:
    """Returns what finds a model from any working folder.

    Args:
      source: A folder, or `org/name` on the hub.
      revision: On the hub; None = main.

    Returns:
      The absolute path of a folder; else the source, as `org/name@revision` if there is one.
    """
    if Path(source).is_dir():
        return str(Path(source).absolute())
    return f"{source}@{revision}" if revision else source


def push(upload: Upload, repo: str, *, private: bool = True, confirm: Callable[[str], bool]) -> str:
    """Uploads files to the hub in one commit; safe to repeat after an interruption.

    Deletes files of an earlier push that would be loaded along with the new ones; others, such as a
    licence, stay.

    Args:
      upload: From `model_upload`, or `dataset_upload` of `collect/`.
      repo: `org/name`; created if it does not exist.
      private: Whether only its owners can see it. An existing repository must already match.
      confirm: Called with a question before files in the repository are replaced.

    Returns:
      The address of the repository.

    Raises:
      UserError: The user declined, or the hub rejects the upload.
    """
    if not _NAME.fullmatch(repo):
        raise UserError(f"{repo} is not a repository name (org/name) of the Hugging Face hub.")

    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    found, stale = _look_up(api, repo, upload.kind), []
    if found is not None:
        _check_visibility(repo, is_private=bool(found.private), private=private)
        names = [file.rfilename for file in found.siblings or []]
        held = [name for name in names if name != ".gitattributes"]  # the hub's own
        stale = [name for name in held if name not in upload.files and upload.replaces(name)]
        if held and not confirm(_question(repo, held, stale)):
            raise UserError(f"nothing was sent; {repo} is unchanged.")
    size = sum(file.stat().st_size for file in upload.files.values())
    console.print(
        f"sending {len(upload.files)} files, {size:,} bytes, to the {upload.kind} {repo} "
        f"({'private' if private else 'public'})"
    )
    if upload.left_here:
        console.print(f"not sent: {', '.join(upload.left_here)}")
    with _one_line_errors(repo, kind=upload.kind):
        if found is None:
            api.create_repo(repo, repo_type=upload.kind, private=private)
        api.create_commit(
            repo,
            repo_type=upload.kind,
            operations=[
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(name, file) for name, file in upload.files.items()),
            ],
            commit_message="parrot push",
            parent_commit=found.sha if found else None,
        )
    return _page(repo, upload.kind)


def model_upload(folder: Path | str) -> Upload:
    """Returns the files of an export by `parrot convert flax-to-hf`.

    Raises:
      UserError: The folder is not a finished export; the message says why.
    """
    files = {file.name: file for file in _files_of_export(Path(folder))}
    return Upload(
        kind="model",
        files=files,
        replaces=lambda name: "/" not in name and _matches(name, _LOADED),
    )


def _files_of_export(folder: Path) -> list[Path]:
    """Returns the files to send; see `model_upload`."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; check the path.")
    if (folder / "config.yaml").exists():
        raise UserError(
            f"{folder} is a run, not an export; export it: `parrot convert flax-to-hf {folder} "
            "OUT`."
        )
    is_peft = (folder / "adapter_config.json").exists()
    if not is_peft and not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not a finished export: it has no config.json, which is written last "
            "(adapter_config.json with --peft). Run `parrot convert flax-to-hf` again to resume it."
        )
    try:
        if is_peft:
            for file, digest in known_hashes(folder).items():
                check_hash(file, digest)
        else:
            HfFolder(folder).check_files()
    except UserError as error:
        raise UserError(
            f"{folder} is not a finished export: {error} Delete damaged files and run `parrot "
            "convert flax-to-hf` again; it writes the missing ones."
        ) from None
    entries = sorted(entry for entry in folder.iterdir() if not _matches(entry.name, _NOT_SENT))
    folders = [entry.name for entry in entries if entry.is_dir()]
    if folders:
        raise UserError(
            f"{folder} has folders, which are not part of an export: {', '.join(folders)}; move "
            "them away."
        )
    return [file_in(folder, entry.name) for entry in entries]


def _look_up(api: "huggingface_hub.HfApi", repo: str, kind: RepoKind) -> Any:
    """Returns the hub's information on a repository; None if it does not exist."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with _one_line_errors(repo, kind=kind):
        try:
            return api.repo_info(repo, repo_type=kind, timeout=_TIMEOUT_S)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None


def _check_visibility(repo: str, *, is_private: bool, private: bool) -> None:
    if private and not is_private:
        raise UserError(
            f"{repo} is public, so everybody could see the files. Add --public, or choose another "
            "name."
        )
    if is_private and not private:
        raise UserError(
            f"{repo} is private: omit --public, or make it public in its settings on the hub first."
        )


def _question(repo: str, held: Sequence[str], stale: Sequence[str]) -> str:
    deleting = f" and delete {', '.join(stale)}, which this push does not send" if stale else ""
    return (
        f"{repo} already has {len(held)} files. Overwrite those of the same name{deleting}? "
        "The repository's history keeps the old files."
    )


def _without_safetensors(repo: str, names: Sequence[str]) -> str:
    if any(name.endswith((".bin", ".pth")) for name in names):
        return (
            f"{repo} has weights as pickles (.bin, .pth), which can run any code when loaded; "
            "use a repository with safetensors, or make a folder with transformers: "
            f"AutoModelForCausalLM.from_pretrained({repo!r}).save_pretrained(NEW_FOLDER)."
        )
    return f"{repo} has no safetensors, only {_flat(', '.join(names))}; use another repository."


@contextlib.contextmanager
def _one_line_errors(
    repo: str, revision: str | None = None, *, kind: RepoKind = "model"
) -> Iterator[None]:
    """Turns errors of huggingface_hub into a one-line `UserError` without the token.

    Raises:
      UserError: The block failed; the message says why and what to do.
    """
    try:
        yield
    except ParrotError:
        raise
    except Exception as error:  # dozens of types, from the library, its HTTP client and storage
        raise UserError(_without_token(_explain(error, repo, revision, kind))) from error


def _explain(error: Exception, repo: str, revision: str | None, kind: RepoKind) -> str:
    import httpx2
    from huggingface_hub import constants, errors

    # Errors in threads, or after a miss in the cache, are wrapped in less specific ones. A
    # ValueError has a better message than the error that it wraps.
    kinds = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.TransportError, ValueError)
    chain = list(_causes(error))
    cause = next((link for link in chain if isinstance(link, kinds)), chain[-1])
    page = _page(repo, kind)
    if isinstance(cause, errors.GatedRepoError):
        return (
            f"{repo} is gated: request access on {page}, then set the environment variable "
            "HF_TOKEN to a token of the account that got it."
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return (
            f"there is no folder or repository {repo}, or you have no access to it: check the "
            "name; if it is private or gated, set the environment variable HF_TOKEN."
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; see {page}/commits/main."
    if isinstance(cause, errors.HfHubHTTPError):
        status = cause.response.status_code
        detail = _flat(cause.server_message or cause.response.reason_phrase)
        advice = _ADVICE.get(status, _ADVICE[429] if status >= 500 else f"look at {page}")
        return f"the hub answered with status {status} for {repo} ({detail}); {advice}."
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return f"{repo} must be downloaded, but HF_HUB_OFFLINE is set; unset it."
    if isinstance(cause, httpx2.TransportError):
        return (
            f"{constants.ENDPOINT} cannot be reached for {repo} ({_flat(str(cause)) or cause!r}); "
            "check the network and run the same command again."
        )
    return f"the hub failed for {repo}: {_flat(str(cause)) or repr(cause)}"


def _page(repo: str, kind: RepoKind) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _causes(error: BaseException | None) -> Iterator[Any]:
    """Yields the error and its chain of causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _without_token(text: str) -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    return _TOKEN.sub("***", text.replace(token, "***") if token else text)


def _flat(text: str) -> str:
    """Returns a text as one line, shortened to about `_MAX_CHARS` characters."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARS else line[:_MAX_CHARS] + "..."


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
