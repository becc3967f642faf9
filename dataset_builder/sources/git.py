"""The git command, so that a recipe's words can never become its options and a repository can never run anything here.

No hooks, no submodules, no prompts, no LFS, symbolic links are not made, and only https, http and ssh are spoken. A
local repository is reached only where the user's own configuration says so (`url.<base>.insteadOf`), never because a
recipe names one.
"""

import os
import re
import subprocess
from pathlib import Path

from dataset_builder.problems import BuildProblem

TIMEOUT_SECONDS = 900
_URL = re.compile(r"(?:https?|ssh)://[^\s-][^\s]*|[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*:[^\s-][^\s]*")
_REF = re.compile(r"[A-Za-z0-9_][\w./+@-]*")
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.symlinks=false",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "core.askPass=",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=no",
    "protocol.ext.allow=never",
    "filter.lfs.smudge=",
    "filter.lfs.process=",
    "filter.lfs.required=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
)
_HIDDEN = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_TEMPLATE_DIR",
)
"""Variables that would lead git to another repository, or to a program; set, for one, where a hook runs this
program."""


class GitFailed(Exception):
    """git said no; the text is its own last line, without credentials."""


def check(url: str, ref: str | None) -> None:
    """Raise BuildProblem for a URL or ref that git could take for something else."""
    if not _URL.fullmatch(url) or "::" in url:
        raise BuildProblem(
            f"dataset.sources: {url!r} is not the URL of a git repository\n  fix: write https://host/owner/repo, "
            "or use "
            "`kind: files` for a folder of this machine"
        )
    if ref is not None and (not _REF.fullmatch(ref) or ".." in ref or ref.endswith((".lock", "/"))):
        raise BuildProblem(f"dataset.sources: {ref!r} is not a git ref\n  fix: write a branch, a tag or a commit")


def run(folder: Path, *arguments: str, data: bytes | None = None, local: bool = False) -> bytes:
    """Standard output of `git arguments` in `folder`. `local` lets git read a repository of this machine. Raises
    GitFailed."""
    environment = {key: value for key, value in os.environ.items() if key not in _HIDDEN}
    environment |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh" + (":file" if local else ""),
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    }
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", *settings, "-C", str(folder), *arguments],
            input=data if data is not None else b"",
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise BuildProblem(
            "dataset.sources: `kind: repo` needs the git command\n  fix: install git, or use `kind: files`"
        ) from None
    except subprocess.TimeoutExpired:
        raise GitFailed(f"no end after {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(("fatal:", "error:"))]
        raise GitFailed(re.sub(r"://[^/@\s]+@", "://", (said or lines or ["git failed"])[0]))
    return done.stdout


def is_rewritten_to_local(url: str, folder: Path) -> bool:
    """Whether the user's git configuration leads this URL to a path of this machine."""
    target = run(folder, "ls-remote", "--get-url", url).decode().strip()
    return target != url and re.match(r"/|file://|\.{1,2}/|[A-Za-z]:[\\/]", target) is not None
