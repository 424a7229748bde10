"""Where a store is: a folder, or an address such as `s3://bucket/prefix`.

Addresses stay text: a `Path` would make `s3:/bucket` of them.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

Location = Path | str
"""A folder, or an address (as `parse_location` gives it)."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(location: Location) -> bool:
    """Whether this is an address, and no path of this machine."""
    return isinstance(location, str) and _ADDRESS.match(location) is not None


def parse_location(text: Location) -> Location:
    """Text as it was typed or recorded: an address without a slash at its end, or else a path."""
    if isinstance(text, Path):
        return text
    return text.rstrip("/") if is_address(text) else Path(text)


StoreLocation = Annotated[Path | str, BeforeValidator(parse_location)]
"""For settings; in JSON it is the text that was given."""
