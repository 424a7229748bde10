"""Ids as names of files and HDF5 datasets: each id its own name, and no id a way out of the folder."""

import hashlib
from urllib.parse import quote

LONGEST = 200
"""Characters; file systems take 255 bytes, and an ending comes after it."""


def safe_name(id: str) -> str:
    """The id itself where it is plain, else with what is not percent-encoded (`a/b` becomes `a%2Fb`).

    Two ids never share a name. One that would be too long is cut and ends in `~` and a hash of its id;
    `urllib.parse.unquote` gives back all others.
    """
    name = quote(id, safe="").replace("~", "%7E")
    if name in (".", "..") or name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 17]}~{hashlib.sha256(id.encode()).hexdigest()[:16]}"
