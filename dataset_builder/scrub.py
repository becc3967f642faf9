"""Secrets and e-mail addresses out of documents, before any model sees them.

Patterns are those of the issuers' own documented formats; a word that only looks random is left alone, since hashes and
ids are facts of documentation. Each hit becomes a placeholder that tells its kind.
"""

import re
from collections import Counter

_PLACEHOLDER_HOSTS = re.compile(r"(?i)@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|example|test|invalid|localhost)$")
_PATTERNS: tuple[tuple[str, re.Pattern], ...] = (
    (
        "private key",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]{1,20000}?"
            r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        ),
    ),
    ("AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("GitHub token", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{60,90}\b")),
    ("GitLab token", re.compile(r"\bgl(?:pat|dt|rt|ptt|cbt)-[\w-]{20,64}(?![\w-])")),
    ("Hugging Face token", re.compile(r"\bhf_[A-Za-z]{34}\b")),
    ("API key", re.compile(r"\bsk-(?:proj-|ant-(?:api\d\d-)?|svcacct-|or-v1-)?[A-Za-z0-9_-]{32,200}(?![\w-])")),
    (
        "Slack token",
        re.compile(
            r"\bxox[abeprs]-[A-Za-z0-9-]{10,250}(?![\w-])|https://hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{20,}"
        ),
    ),
    ("Google key", re.compile(r"\bAIza[\w-]{35}(?![\w-])|\bya29\.[\w-]{30,}")),
    ("Stripe key", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,250}\b")),
    ("PyPI token", re.compile(r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,1000}(?![\w-])")),
    ("npm token", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b")),
    ("JSON web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}(?![\w-])")),
    (
        "password in a URL",
        re.compile(
            r"(?<=://)[^\s/:@<>{}\[\]$]{1,80}:(?!(?:password|passwd|pass|pw|secret|token|x+|\*+|\.+)@)[^\s/:@<>{}\[\]$]{6,200}(?=@[\w.-]+)"
        ),
    ),
    (
        "e-mail address",
        re.compile(
            r"(?<![\w.+/:@=%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@:/-]|\.\w)"
        ),
    ),
)
_SSH_USERS = frozenset({"git", "hg", "ssh", "user", "username", "root", "you", "name", "me", "ubuntu", "ec2-user"})


def scrub(text: str) -> tuple[str, dict[str, int]]:
    """The text with secrets and addresses replaced by `[kind removed]`, and how many of each kind there were.

    Addresses at the domains reserved for examples (RFC 2606) and `git@host` stay: they are documentation.

    >>> scrub("Write to jane.doe@intel.com or me@example.com")
    ('Write to [e-mail address removed] or me@example.com', {'e-mail address': 1})
    """
    found: Counter = Counter()
    for kind, pattern in _PATTERNS:

        def replace(match: re.Match, kind: str = kind) -> str:
            word = match[0]
            if kind == "e-mail address" and (
                _PLACEHOLDER_HOSTS.search(word) or word.split("@")[0].lower() in _SSH_USERS
            ):
                return word
            if kind in ("API key",) and len(set(word)) < 12:
                return word  # sk-xxxxxxxx: a placeholder
            found[kind] += 1
            return f"[{kind} removed]"

        text = pattern.sub(replace, text)
    return text, dict(found)
