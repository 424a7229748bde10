"""An ontology: terms, their names, and which term is more general than which.

Read from an OBO file by obonet, or made of EC numbers, whose digits are a hierarchy of their own. It gives names to
reports and ancestors to CAFA's figures (`metrics/cafa.py`); labels of a task are never propagated by it otherwise.

Names are text of whoever wrote the file: what is not printable is replaced when it is read, and markup in them means
nothing until a page escapes it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from amma.manifests.errors import InputError
from amma.manifests.files import sha256_of_file
from amma.manifests.textfile import open_text

RELATIONS = ("is_a", "part_of")
"""What makes one term a parent of another, as in CAFA."""

NAMESPACES = {
    "go-mf": "molecular_function",
    "go-bp": "biological_process",
    "go-cc": "cellular_component",
    "ec": "ec",
    "ec-class": "ec",
}
"""The namespace of each task's terms."""

EC_ROOT = "-.-.-.-"

EC_CLASSES = {
    "1": "Oxidoreductases",
    "2": "Transferases",
    "3": "Hydrolases",
    "4": "Lyases",
    "5": "Isomerases",
    "6": "Ligases",
    "7": "Translocases",
}
"""The classes of the Enzyme Commission (IUBMB), by the first digit of an EC number."""

_EC_NUMBER = re.compile(r"[0-9]+(\.([0-9]+|n[0-9]+|B[0-9]+|-)){0,3}")
_ESCAPED = re.compile(r"\\(.)")
_SPACES = {"n": " ", "t": " ", "W": " "}


@dataclass(frozen=True)
class TermMapping:
    """Which live term each term of a task stands for.

    `found` is in the order of the terms asked for, without those of `unmatched`; `how` says for each whether it is an
    `id`, an `alt_id`, or an obsolete term that the ontology says is `replaced_by` another or to `consider` as one.
    """

    found: Mapping[str, str]
    how: Mapping[str, str]
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class Ontology:
    """The live terms of an ontology, parents within their namespace, and what older ids stand for.

    `version` is the file's `data-version` ("" if it has none) and `sha256` that of the file as it is: together they
    pin it. `parents` has every live term; those of another namespace and obsolete ones are left out of it, as the
    CAFA-evaluator leaves them out. `obsolete` maps to the one live term that is to be used instead, or to None.
    """

    source: str
    version: str
    sha256: str
    relations: tuple[str, ...]
    names: Mapping[str, str] = field(repr=False)
    namespace: Mapping[str, str] = field(repr=False)
    parents: Mapping[str, tuple[str, ...]] = field(repr=False)
    alternatives: Mapping[str, str] = field(repr=False)
    obsolete: Mapping[str, tuple[str, str] | None] = field(repr=False)

    @classmethod
    def read(cls, path: Path, *, relations: tuple[str, ...] = RELATIONS) -> "Ontology":
        """Read an OBO file, plain or gzip.

        `relations` are those that lead from a term to its parents. Raises `InputError`: `E_OBO` if this is no OBO
        file, if a parent is not in it, or if its terms are their own ancestors; `E_GZIP`, `E_INPUT` and `E_LINE` as
        `open_text`.
        """
        graph = _read_graph(path)
        stanzas: dict[str, dict[str, Any]] = dict(graph.nodes(data=True))
        default = graph.graph.get("default-namespace") or ""
        default = default[0] if isinstance(default, list) else default
        dead = {term for term, stanza in stanzas.items() if stanza.get("is_obsolete") == "true"}
        namespace = {
            term: stanza.get("namespace") or default for term, stanza in stanzas.items() if stanza and term not in dead
        }
        parents: dict[str, tuple[str, ...]] = {}
        for term in namespace:
            # Sorted: a set of edges has no order of its own, and the same file must give the same figures.
            above = sorted({parent for _, parent, kind in graph.out_edges(term, keys=True) if kind in relations})
            for parent in above:
                if not stanzas[parent]:
                    raise InputError(
                        f"{path}: the parent {parent!r} of {term!r} is not in the file, or has nothing but an id; "
                        "is it cut short? Give a whole ontology, such as go-basic.obo.",
                        code="E_OBO",
                    )
            parents[term] = tuple(each for each in above if namespace.get(each) == namespace[term])
        _refuse_cycles(parents, str(path))
        live = {term: stanzas[term] for term in namespace}
        alternatives = _alternatives(live)
        return cls(
            source=str(path),
            version=_clean(str(graph.graph.get("data-version") or "")),
            sha256=sha256_of_file(path),
            relations=relations,
            names={term: _clean(stanza.get("name") or "") for term, stanza in stanzas.items()},
            namespace=namespace,
            parents=parents,
            alternatives=alternatives,
            obsolete={term: _successor(stanzas[term], namespace, alternatives) for term in sorted(dead)},
        )

    @classmethod
    def of_ec(cls, terms: Iterable[str]) -> "Ontology":
        """The hierarchy of these EC numbers: `3.4.21.4` is a `3.4.21.-`, a `3.4.-.-`, and a `3.-.-.-`.

        Numbers may end early (`3.4`), which stands for dashes; the root above the seven classes is `EC_ROOT`. Terms
        that are no EC numbers are left out, so `map_terms` lists them as unmatched. This is no file of anyone's:
        `version` and `sha256` are empty.
        """
        parents: dict[str, tuple[str, ...]] = {EC_ROOT: ()}
        alternatives: dict[str, str] = {}
        for term in terms:
            number = _full_ec(term)
            if number is None:
                continue
            if number != term:
                alternatives[term] = number
            while number not in parents:
                digits = number.split(".")
                last = max(place for place, digit in enumerate(digits) if digit != "-")
                parent = ".".join([*digits[:last], *["-"] * (4 - last)])
                parents[number] = (parent,)
                number = parent
        names = {term: EC_CLASSES.get(term.removesuffix(".-.-.-"), "") for term in parents}
        return cls(
            source="the digits of EC numbers",
            version="",
            sha256="",
            relations=("is_a",),
            names=names,
            namespace=dict.fromkeys(parents, "ec"),
            parents=parents,
            alternatives=alternatives,
            obsolete={},
        )

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that have live terms, sorted."""
        return tuple(sorted(set(self.namespace.values())))

    def map_terms(self, terms: Iterable[str], *, namespace: str | None = None) -> TermMapping:
        """The live term that each of `terms` stands for; with `namespace`, those of others count as unmatched."""
        found, how, unmatched = {}, {}, []
        for term in terms:
            live, way = self._resolve(term)
            if live is None or (namespace is not None and self.namespace[live] != namespace):
                unmatched.append(term)
            else:
                found[term], how[term] = live, way
        return TermMapping(found, how, tuple(unmatched))

    def name_of(self, term: str) -> str:
        """The name of a term, also of an obsolete one or under an alternative id; "" if there is none."""
        live = self.alternatives.get(term)
        return self.names.get(term) or (self.names.get(live, "") if live else "")

    def closure(self, terms: Iterable[str]) -> tuple[str, ...]:
        """These live terms and all their ancestors, every term after its parents.

        The order depends on the set of terms alone. Raises `KeyError` for a term that is not live.
        """
        above: dict[str, tuple[str, ...]] = {}
        waiting = sorted(set(terms))
        while waiting:
            term = waiting.pop()
            if term not in above:
                above[term] = self.parents[term]
                waiting.extend(self.parents[term])
        return tuple(TopologicalSorter(dict(sorted(above.items()))).static_order())

    def ancestors(self, term: str) -> frozenset[str]:
        """All terms above a live term, without itself; raises `KeyError` if it is not live."""
        return frozenset(self.closure([term])) - {term}

    def _resolve(self, term: str) -> tuple[str | None, str]:
        if term in self.namespace:
            return term, "id"
        if term in self.alternatives:
            return self.alternatives[term], "alt_id"
        return self.obsolete.get(term) or (None, "")


def _read_graph(path: Path) -> Any:
    """The graph obonet makes of a file; what it raises over a file of another kind becomes `InputError`."""
    import obonet

    with open_text(path) as handle:
        try:
            graph = obonet.read_obo(handle, ignore_obsolete=False)
        except InputError:
            raise
        # Whatever its parser meets in a file that is something else: no colon, a stanza without an id, two targets.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise InputError(
                f"{path}: not an OBO file ({reason}). Expected one such as go-basic.obo.", code="E_OBO"
            ) from error
    if not any(stanza for _, stanza in graph.nodes(data=True)):
        raise InputError(
            f"{path}: no [Term] with a name in it. Expected an OBO file such as go-basic.obo.", code="E_OBO"
        )
    return graph


def _refuse_cycles(parents: Mapping[str, tuple[str, ...]], source: str) -> None:
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1][:6])
        raise InputError(
            f"{source}: terms that are their own ancestors: {circle}. Use an ontology without circles (go-basic.obo, "
            "not go.obo), or fewer relations.",
            code="E_OBO",
        ) from error


def _alternatives(live: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Alternative ids that stand for one live term; those that two terms claim, or that are live, stand for none."""
    claims: dict[str, set[str]] = {}
    for term, stanza in live.items():
        for other in stanza.get("alt_id", ()):
            claims.setdefault(other, set()).add(term)
    return {
        other: next(iter(terms)) for other, terms in sorted(claims.items()) if len(terms) == 1 and other not in live
    }


def _successor(
    stanza: Mapping[str, Any], namespace: Mapping[str, str], alternatives: Mapping[str, str]
) -> tuple[str, str] | None:
    """The live term to use instead of an obsolete one, and which tag says so; None without exactly one."""
    for tag in ("replaced_by", "consider"):
        live = {alternatives.get(term, term) for term in stanza.get(tag, ())}
        if live:
            return (live.pop(), tag) if len(live) == 1 and live <= namespace.keys() else None
    return None


def _full_ec(term: str) -> str | None:
    """An EC number at its four places, or None if it is none."""
    if not _EC_NUMBER.fullmatch(term):
        return None
    digits = term.split(".")
    known = next((place for place, digit in enumerate(digits) if digit == "-"), len(digits))
    return ".".join([*digits[:known], *["-"] * (4 - known)]) if set(digits[known:]) <= {"-"} else None


def _clean(text: str) -> str:
    """Text of an OBO file as one printable line: escapes taken away, what cannot be shown replaced."""
    text = _ESCAPED.sub(lambda match: _SPACES.get(match[1], match[1]), text)
    return printable(text)


def printable(text: str) -> str:
    """`text` with every kind of space as a plain one, and U+FFFD for controls, marks of direction and broken bytes."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text).strip()
