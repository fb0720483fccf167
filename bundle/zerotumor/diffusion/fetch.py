"""Fetch a published model: from the Hugging Face hub or a local folder, checked, recorded, converted.

Its makers publish no hashes outside the hub. So what is downloaded is compared with the hub's own hash, and what was got the
first time is recorded in sources.json; a file that differs later on is refused.
"""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ..segmenter import WeightsError, sha256
from ..volumes import write_atomically, write_json
from .weights import File, load_published, published, read_config, save_prior

RECORD = "sources.json"


@dataclass(frozen=True)
class Got:
    """A file that lies in the target folder now."""

    path: Path
    revision: str
    sha256: str


def licenses(name: str, source: Path | None = None, revision: str = "main") -> str:
    """What the user has to agree to: names, addresses of the model cards, and the text where there is one.

    Args:
        source: a local folder; without one the hub is asked.

    Raises:
        WeightsError: no such model, or the hub cannot be reached.
    """
    model = published(name)
    parts = [f"{name}: {model.license}, as far as is known here. What its makers say on the model card decides:"]
    parts += [f"  https://huggingface.co/{repo}" for repo in model.repos]
    parts += [f"  ({model.note})"] if model.note else []
    if source is not None:
        texts = [f.read_text(errors="replace") for f in sorted(source.rglob("LICENSE*")) if f.is_file()]
    else:
        texts = [text for repo in model.repos for text in _hub_licenses(repo, revision)]
    return "\n".join([*parts, *(f"\n{text.strip()}" for text in texts)])


def fetch(name: str, folder: Path, source: Path | None = None, revision: str = "main") -> Path:
    """Get a model's files into a folder and write it as `folder`/<name>.pt with its record; returns that path.

    Args:
        source: a folder that holds the files already (under the hub's paths, or flat). revision: of the hub's repositories,
        a branch, tag or commit.

    Raises:
        WeightsError: see the sentence: no network, no access, another hash, a full disk, a missing or unfit file.
        ScanError: the target cannot be written.
    """
    model = published(name)
    got = {}
    for part, file in (("autoencoder", model.autoencoder), ("unet", model.unet)):
        one = _copy(file, source, folder) if source is not None else _download(file, folder, revision)
        _remember(file, one, folder)
        got[part] = one
    prior = load_published(name, got["autoencoder"].path, got["unet"].path)
    sources = {part: {"revision": g.revision, "sha256": g.sha256} for part, g in got.items()}
    return save_prior(prior, folder / f"{name}.pt", read_config(name), license=model.license, sources=sources)


def _copy(file: File, source: Path, folder: Path) -> Got:
    """From a local folder; what is there already is left alone if it is the same, or if the new file is refused."""
    found = next((p for p in (source / file.name, source / Path(file.name).name) if p.is_file()), None)
    if found is None:
        raise WeightsError(f"{source} holds no {Path(file.name).name}: give the folder with the files of {file.repo}")
    target, digest = folder / file.name, sha256(found)
    _check(file, digest, folder)
    if found.resolve() != target.resolve() and not (target.is_file() and sha256(target) == digest):
        _room(folder, found.stat().st_size)
        write_atomically(target, lambda temporary: shutil.copyfile(found, temporary))
    return Got(target, "local", digest)


def _download(file: File, folder: Path, revision: str) -> Got:
    """From the hub; an interrupted download goes on where it stopped."""
    try:
        api = HfApi()
        commit = api.model_info(file.repo, revision=revision).sha
        about = api.get_paths_info(file.repo, [file.name], revision=commit)
        if not about:
            raise WeightsError(f"{file.repo} has no {file.name} at {revision}: name another --revision")
        target, said = folder / file.name, about[0].lfs.sha256 if about[0].lfs is not None else None
        if said is not None:  # before the download, which would replace what is there
            _check(file, said, folder)
            if target.is_file() and sha256(target) == said:
                return Got(target, commit, said)
        if not target.is_file():
            _room(folder, about[0].size)
        path = Path(hf_hub_download(file.repo, file.name, revision=commit, local_dir=folder))
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _sentence(error, file.repo) from error
    digest = sha256(path)
    if said not in (None, digest):
        path.unlink()
        raise WeightsError(
            f"{path} is not what {file.repo} says it is (its hash differs): it is deleted, fetch it again"
        )
    return Got(path, commit, digest)


def _check(file: File, digest: str, folder: Path) -> None:
    """Refuse a file that is not the one that was fetched first."""
    known, key = _known(folder), f"{file.repo}/{file.name}"
    if key in known and known[key]["sha256"] != digest:
        raise WeightsError(
            f"{key} is not the file that was fetched first (sha256 {digest[:12]}, then {known[key]['sha256'][:12]}): "
            f"if the new one is wanted, delete its entry from {folder / RECORD}"
        )


def _remember(file: File, got: Got, folder: Path) -> None:
    """Record a file's first hash; refuse another one later on."""
    _check(file, got.sha256, folder)
    known, key = _known(folder), f"{file.repo}/{file.name}"
    if key not in known:
        write_json({**known, key: {"revision": got.revision, "sha256": got.sha256}}, folder / RECORD, indent=2)


def _known(folder: Path) -> dict:
    """What was fetched into a folder so far, by repository and name."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def _room(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WeightsError(f"{folder} has {free / 1e9:.1f} GB free and {size / 1e9:.1f} GB are needed: free some space")


def _hub_licenses(repo: str, revision: str) -> list[str]:
    try:
        names = [
            n for n in HfApi().list_repo_files(repo, revision=revision) if Path(n).name.upper().startswith("LICENSE")
        ]
        return [Path(hf_hub_download(repo, n, revision=revision)).read_text(errors="replace") for n in names]
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _sentence(error, repo) from error


def _sentence(error: Exception, repo: str) -> WeightsError:
    """What went wrong on the way from the hub, and what helps."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return WeightsError(f"the disk is full: free some space and start again, what is there of {repo} is kept")
    if isinstance(error, GatedRepoError):
        return WeightsError(f"{repo} asks for an agreement: accept it on its page, then log in with `hf auth login`")
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError("HF_HUB_OFFLINE forbids downloads: unset it, or give a local folder with --source")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return WeightsError(
            f"{repo} answers {error.response.status_code}: try later, or give a local folder with --source"
        )
    if isinstance(error, LocalEntryNotFoundError | httpx.HTTPError | ConnectionError | TimeoutError):
        return WeightsError(f"{repo} cannot be reached: check the network, or give a local folder with --source")
    return WeightsError(f"{repo} could not be fetched ({error}): start again, or give a local folder with --source")
