"""A synthetic proteome on disk, in the formats of real data, for demonstrations and tests.

Everything is invented and says so: FASTA headers, structure remarks and the folder's README. Equal arguments give
equal bytes.

Legend: L residues of one protein, 4 atoms (N, CA, C, O), 3 coordinates in Å.
"""

import gzip
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float

from amma.manifests.backbone import ATOMS
from amma.manifests.descriptions import NAME_COLUMN, NO_TEXT, SEQUENCE_COLUMN, TEXT_COLUMNS, Text
from amma.manifests.errors import UsageError
from amma.manifests.files import write_atomically, write_json_atomically
from amma.manifests.labels import SPLITS
from amma.manifests.toy_families import CLASSES, Family, Residues, backbones_of

MIN_PROTEINS = 12
_MARK = "toy.json"
"""The file by which a folder is known as an earlier toy, whose files may be replaced."""

_ROLES = ("train", "train", "test", "valid", "train", "train", "valid", "test", "train", "train", "train", "train")
"""The split of the families of a class, in turn. Their two EC numbers alternate: each is in train and test."""

_README = """SYNTHETIC DATA. These proteins do not exist: sequences, structures, texts, EC numbers and sites were
invented by amma-manifest toy. They serve to try the program, and say nothing about biology.

sites.tsv: the sites are planted, not annotated. They are the residues of the motif that belongs to a protein's EC
number: the first and the last are called ACT_SITE, those between them BINDING.
"""


@dataclass(frozen=True)
class ToyProtein:
    """One invented protein; `missing` are residue indices (0-based) that its structure lacks."""

    id: str
    family: Family
    residues: Residues
    text: Text
    has_structure: bool
    mmcif: bool
    missing: tuple[int, ...]
    has_label: bool


def write_toy(folder: Path, *, proteins: int, seed: int) -> dict[str, int]:
    """Write `sequences.fasta`, `structures/`, `descriptions.tsv`, `ec.tsv`, `clusters.tsv`, `sites.tsv` and the splits.

    Clusters are families; no family is in two splits. About a tenth of the proteins has no text, another tenth no
    structure; some structures are mmCIF, some lack residues, some proteins have no EC number. Gives counts. Raises
    `UsageError` for fewer than 12 proteins, or if `folder` holds other things than an earlier toy.
    """
    if proteins < MIN_PROTEINS:
        raise UsageError(f"a toy proteome needs at least {MIN_PROTEINS} proteins, got {proteins}.")
    _clear(folder)
    members = draw_proteome(proteins, seed)
    split_of = {protein.id: family_split(protein.family, _num_classes(proteins)) for protein in members}
    # The mark comes first: a run that dies halfway leaves a folder that the next one may clear.
    write_json_atomically(folder / _MARK, {"proteins": proteins, "seed": seed, "synthetic": True})
    write_atomically(folder / "README.txt", _README.encode())
    backbones = backbones_of([protein.residues for protein in members])
    for protein, atoms_L43 in zip(members, backbones, strict=True):
        if protein.has_structure:
            suffix = "cif" if protein.mmcif else "pdb"
            packed = gzip.compress(structure_text(protein, atoms_L43).encode(), mtime=0)
            write_atomically(folder / "structures" / f"{protein.id}.{suffix}.gz", packed)
    fasta = (
        f">{protein.id} - synthetic\n" + "".join(f"{line}\n" for line in _wrap(protein.residues.letters))
        for protein in members
    )
    write_atomically(folder / "sequences.fasta", "".join(fasta).encode())
    described = [(p.id, *p.text, p.residues.letters) for p in members if any(p.text)]
    _write_tsv(folder / "descriptions.tsv", (NAME_COLUMN, *TEXT_COLUMNS, SEQUENCE_COLUMN), described)
    labelled = [(p.id, *ec_labels(p.family)) for p in members if p.has_label]
    _write_tsv(folder / "ec.tsv", ("id", "ec", "ec_class"), labelled)
    sites = [site for protein in members for site in planted_sites(protein)]
    _write_tsv(folder / "sites.tsv", ("id", "start", "end", "kind"), sites)
    _write_tsv(folder / "clusters.tsv", ("id", "cluster"), [(p.id, str(p.family.index)) for p in members])
    for split in SPLITS:
        ids = [f"{protein.id}\n" for protein in members if split_of[protein.id] == split]
        write_atomically(folder / f"{split}.txt", "".join(ids).encode())
    return {
        "proteins": len(members),
        "families": len({protein.family.index for protein in members}),
        "structures": sum(protein.has_structure for protein in members),
        "descriptions": len(described),
        "labelled": len(labelled),
        "sites": len(sites),
        **Counter(split_of.values()),
    }


def draw_proteome(proteins: int, seed: int) -> list[ToyProtein]:
    """Invent `proteins` proteins: a function of the arguments alone."""
    classes = _num_classes(proteins)
    families = [
        Family.draw(seed, index, CLASSES[index % classes], enzyme=index // classes % 2)
        for index in range(max(4 * classes, proteins // 4))
    ]
    rng = np.random.default_rng([seed, 0])
    tenth = max(1, proteins // 10)
    order = [int(i) for i in rng.permutation(proteins)]
    no_text, no_structure = set(order[:tenth]), set(order[tenth : 2 * tenth])
    # Chosen among those that have a structure, so that each oddity occurs in every toy.
    mmcif, missing = set(order[-tenth:]), order[-tenth - 2 : -tenth // 2]
    no_label = {int(i) for i in rng.permutation(proteins)[: proteins // 12]}
    members: list[ToyProtein] = []
    for i in range(proteins):
        family = families[i % len(families)]
        draw = np.random.default_rng([seed, 2, i])
        residues = family.member(draw)
        start = int(draw.integers(5, len(residues) - 8))
        members.append(
            ToyProtein(
                id=f"TOY{i + 1:05d}-A",
                family=family,
                residues=residues,
                text=NO_TEXT if i in no_text else _describe(family, draw),
                has_structure=i not in no_structure,
                mmcif=i in mmcif,
                missing=tuple(range(start, start + int(draw.integers(1, 4)))) if i in missing else (),
                has_label=i not in no_label,
            )
        )
    return members


def family_split(family: Family, classes: int) -> str:
    """The split of a family, by its turn among the families of its class."""
    return _ROLES[family.index // classes % len(_ROLES)]


def ec_labels(family: Family) -> tuple[str, str]:
    """The EC numbers and classes of a family as the label table has them."""
    numbers = sorted(enzyme.number for enzyme in family.enzymes)
    return ",".join(numbers), family.enzyme_class.digit


def planted_sites(protein: ToyProtein) -> list[tuple[str, str, str, str]]:
    """Rows of the table of sites: the motif of the protein's EC number, its ends ACT_SITE and the rest BINDING."""
    first, last = protein.residues.states.index("M") + 1, protein.residues.states.rindex("M") + 1
    spans = ((first, first, "ACT_SITE"), (first + 1, last - 1, "BINDING"), (last, last, "ACT_SITE"))
    return [(protein.id, str(start), str(end), kind) for start, end, kind in spans]


def structure_text(protein: ToyProtein, atoms_L43: Float[np.ndarray, "L 4 3"]) -> str:
    """The backbone of a protein as a PDB or mmCIF file.

    Of the missing residues the first is there without its Cα, the others are not there at all.
    """
    chain = gemmi.Chain("A")
    for i, (letter, atoms_43) in enumerate(zip(protein.residues.letters, atoms_L43, strict=True)):
        if i in protein.missing[1:]:
            continue
        residue = gemmi.Residue()
        residue.name = gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA)
        residue.seqid = gemmi.SeqId(i + 1, " ")
        residue.het_flag = "A"
        for name, position in zip(ATOMS, atoms_43, strict=True):
            if name == "CA" and i in protein.missing:
                continue
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(name[0])
            atom.pos = gemmi.Position(*(round(float(x), 3) for x in position))
            atom.occ, atom.b_iso = 1.0, 0.0
            residue.add_atom(atom)
        chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure = gemmi.Structure()
    structure.name = "SYNTHETIC"
    structure.add_model(model)
    structure.info["_struct.title"] = "SYNTHETIC PROTEIN MADE BY AMMA-MANIFEST TOY"
    structure.raw_remarks = ["REMARK   3 SYNTHETIC: IDEAL GEOMETRY, NO EXPERIMENT, NO REAL PROTEIN"]
    structure.setup_entities()
    structure.assign_serial_numbers()
    return structure.make_mmcif_document().as_string() if protein.mmcif else structure.make_pdb_string()


def _num_classes(proteins: int) -> int:
    """Few proteins have few classes, so that every class has families in every split."""
    return 4 if proteins >= 32 else 3 if proteins >= 24 else 2


def _describe(family: Family, rng: np.random.Generator) -> Text:
    enzyme = family.enzymes[0]
    reactions = " and ".join(each.reaction.format(substrate=family.substrate) for each in family.enzymes)
    name = f"{family.name} {enzyme.noun} {int(rng.integers(1, 10))}"
    opening = ("Catalyzes", "Enzyme that catalyzes", "Involved in metabolism; catalyzes")[int(rng.integers(3))]
    location = family.enzyme_class.location if rng.random() < 0.7 else ""
    similarity = f"Belongs to the {family.name.lower()} {enzyme.noun} family." if rng.random() < 0.8 else ""
    return (name, f"{opening} {reactions}.", location, similarity)


def _clear(folder: Path) -> None:
    """Make `folder`, or remove the structures of an earlier toy; its other files are written over."""
    structures = folder / "structures"
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).is_file()):
            raise UsageError(f"{folder}: not a new or empty folder, and no earlier toy. Give another one.")
        for path in sorted(structures.glob("TOY*-A.*.gz")):
            path.unlink()
    structures.mkdir(parents=True, exist_ok=True)


def _wrap(letters: str, width: int = 80) -> list[str]:
    return [letters[start : start + width] for start in range(0, len(letters), width)]


def _write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    write_atomically(path, "".join("\t".join(row) + "\n" for row in (header, *rows)).encode())
