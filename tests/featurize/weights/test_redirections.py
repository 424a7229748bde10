"""A redirection is followed where nobody can listen in, and only so far."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.encoders.download import Patience, download
from amma.manifests.errors import WeightsError

WHOLE = random.Random(0).randbytes(20_000)
QUICK = Patience(connect=5.0, silence=0.4, tries=3, pause=0.01, longest_pause=0.02)


@pytest.fixture
def get(site: Any, tmp_path: Path) -> Callable[..., bool]:
    site.files["/file.pt"] = WHOLE

    def get(address: str = f"{site.address}/file.pt") -> bool:
        return download(address, tmp_path / "w" / "file.pt", accept=lambda _: None, patience=QUICK)

    return get


def refused(get: Callable[..., bool], *address: str) -> str:
    """The line with which a download ends, of which nothing is left."""
    with pytest.raises(WeightsError) as caught:
        get(*address)
    assert caught.value.code == "E_DOWNLOAD"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_redirections_are_followed_and_ranges_with_them(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.files["/elsewhere"] = site.files.pop("/file.pt")
    site.fail(status=302, location="/elsewhere")
    site.fail(cut=7000)
    site.fail(status=302, location="/elsewhere")

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert [asked["path"] for asked in site.asked] == ["/file.pt", "/elsewhere"] * 2
    assert site.asked[3]["Range"] == "bytes=7000-"


def test_redirections_without_end_are_refused(site: Any, get: Callable[..., bool]) -> None:
    site.fail_always(status=302, location="/file.pt")

    assert "redirects without end" in refused(get)


def test_from_https_a_redirection_to_http_is_not_followed(
    site: Any, secure_site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    secure_site.fail(status=302, location=f"{site.address}/file.pt")

    line = refused(get, f"{secure_site.address}/file.pt")

    assert "not safe to follow" in line
    assert len(secure_site.asked) == 1
    assert site.asked == []
    assert [path.suffix for path in (tmp_path / "w").iterdir()] == [".lock"]


def test_from_https_a_redirection_to_https_is_followed(
    secure_site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    secure_site.files["/elsewhere"] = WHOLE
    secure_site.fail(status=301, location="/elsewhere")

    get(address=f"{secure_site.address}/file.pt")

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE


def test_a_certificate_nobody_vouches_for_is_refused(
    secure_site: Any, get: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    secure_site.files["/file.pt"] = WHOLE

    line = refused(get, f"{secure_site.address}/file.pt")

    assert "certificate is not valid" in line
    assert secure_site.asked == []
