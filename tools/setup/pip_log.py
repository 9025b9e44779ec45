"""Reads pip's output: how far an installation is, and why one failed.

pip prints one "Collecting" line per package, the size of each download, and nothing while it
installs; so the installed packages are counted by the caller.

Pure.
"""

import re
from dataclasses import dataclass

_TAIL_LINES = 15
_DOWNLOAD_PERCENT = 70  # the rest is unpacking; half of the time each, with a fast network
_PACKAGE = re.compile(
    r"^(?:Collecting|Requirement already satisfied:) (\S+?)(?:\[[^]]*\])?==", re.MULTILINE
)
_DOWNLOADING = re.compile(r"^  Downloading \S+ \(([\d.]+ [kMG]?B)\)", re.MULTILINE)
_INSTALLING = re.compile(r"^Installing collected packages: (.*)$", re.MULTILINE)
_NETWORK = (
    "Failed to establish a new connection|Name or service not known|name resolution|"
    "Network is unreachable|ConnectTimeoutError|ReadTimeoutError|Read timed out|ProxyError|"
    "Connection refused|Connection reset|RemoteDisconnected|IncompleteRead|Connection broken"
)
#: pattern of pip's output: what it means, and what to do
_REASONS = {
    "No space left on device|Errno 28": "the disk is full; free some space",
    "CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError": (
        "the certificate of the package index is not trusted; set PIP_CERT to the file of your "
        "certificate authority"
    ),
    "DO NOT MATCH THE HASHES": (
        "a downloaded file is not the one that requirements.lock names; use another index "
        "(PIP_INDEX_URL)"
    ),
    "40[137] Client Error|Proxy Authentication": (
        "the package index or the proxy refuses access; check PIP_INDEX_URL and HTTPS_PROXY"
    ),
    _NETWORK: (
        "the package index cannot be reached; check the network, or set HTTPS_PROXY to your proxy "
        "or PIP_INDEX_URL to your mirror"
    ),
    "Permission denied|Errno 13|Read-only file system": (
        "a folder is not writable; run it as the owner of the folder"
    ),
    r"No matching distribution found for (?P<name>\S+)": (
        "the package index has no file of {name} for this Python and machine; use Python 3.11, "
        "3.12 or 3.13 (make setup PYTHON=/path/to/python3.12)"
    ),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far pip is."""

    percent: int  #: 0 to 100
    activity: str  #: what pip does now


def progress(log: str, *, total: int, installed: int) -> Progress:
    """Return how far pip is with `total` requirements; `installed`: packages added so far."""
    if match := _INSTALLING.search(log):
        share = min(installed / len(match.group(1).split(", ")), 1.0)
        percent = _DOWNLOAD_PERCENT + int((100 - _DOWNLOAD_PERCENT) * share)
        return Progress(percent, "installing")
    packages = list(_PACKAGE.finditer(log))
    if not packages:
        return Progress(0, "downloading")
    sizes = _DOWNLOADING.findall(log[packages[-1].end() :])
    size = f" ({sizes[-1]})" if sizes else ""
    # the last one is not complete yet
    percent = int(_DOWNLOAD_PERCENT * min((len(packages) - 1) / max(total, 1), 1.0))
    return Progress(percent, f"downloading {packages[-1].group(1)}{size}")


def has_begun_to_install(log: str) -> bool:
    """Return whether pip has changed the environment."""
    return _INSTALLING.search(log) is not None


def reason(log: str) -> str:
    """Return why pip failed and what to do; the end of its output if that is unknown."""
    for pattern, text in _REASONS.items():
        if match := re.search(pattern, log):
            return text.format(**match.groupdict())
    return "pip failed:\n" + "\n".join(log.rstrip().splitlines()[-_TAIL_LINES:])


def packages_in(requirements: str) -> int:
    """Return how many packages the requirements name; one may have a pin per Python version."""
    return len(set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", requirements, re.MULTILINE)))
