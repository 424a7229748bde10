"""docs/errors.md has every code of the source, in the table of its kind, and no other."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("manifests", "featurize", "train", "evaluate")
CODE = r"E_[A-Z0-9]+(?:_[A-Z0-9]+)*"


@pytest.fixture(scope="module")
def source() -> str:
    files = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    assert len(files) > 50
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture(scope="module")
def documented() -> dict[str, list[str]]:
    """The codes of each table."""
    text = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    kinds = {"run": "Run errors", "record": "Record errors"}
    return {kind: re.findall(rf"^\| `({CODE})` \|", sections[title], re.MULTILINE) for kind, title in kinds.items()}


def test_every_code_is_documented_and_no_other(source: str, documented: dict[str, list[str]]) -> None:
    assert set(re.findall(rf"\b{CODE}\b", source)) == {*documented["run"], *documented["record"]}


def test_each_table_names_a_code_once(documented: dict[str, list[str]]) -> None:
    for codes in documented.values():
        assert len(codes) == len(set(codes))


def test_codes_are_in_the_table_of_their_kind(source: str, documented: dict[str, list[str]]) -> None:
    raised = {
        "record": re.findall(rf'RecordError\(\s*"({CODE})"', source),
        "run": re.findall(rf'\bcode ?= ?"({CODE})"', source),
    }
    for kind, codes in raised.items():
        assert codes
        assert set(codes) <= set(documented[kind]), kind


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    text = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `E_")]
    assert rows
    for row in rows:
        assert len([cell for cell in re.split(r"(?<!`)\|(?!`)", row) if cell.strip()]) == 3
