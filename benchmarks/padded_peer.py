"""The usual way to train the same model: padded batches, `nn.TransformerEncoder` and a `DataLoader`.

The weights are this project's own, under torch's names, so that both sides give the same losses. What the encoder sees
is gathered before it, as masked autoencoders do; everything else is padded to the longest protein of the batch, and
`src_key_padding_mask` keeps the padding out. In training torch computes for padding too (its nested fast path is for
evaluation only, and not for pre-norm layers).

Legend: B proteins, T tokens of the longest, V visible tokens of all, J those of the protein with most, W width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, Modality
from amma.train.model.amma import AMMA
from amma.train.model.config import MaskConfig
from amma.train.model.masking import draw_visible, generator_for
from amma.train.model.positions import sincos
from amma.train.model.transformer import Transformer

SEQ, STR, FUNC = MODALITIES
Item = dict[Modality, tuple[Tensor, Tensor]]
"""For each modality the features of one protein as they are stored, and True where a token is visible."""
Batch = dict[Modality, dict[str, Tensor]]


class FlatFiles:
    """The rows of a store in one file for each modality, which costs a reader nothing but the copy."""

    def __init__(self, store: FeatureStore, folder: Path) -> None:
        self.folder = folder
        self.length = {m: store.length(m).astype(np.int64) for m in MODALITIES}
        self.begin = {m: np.concatenate([[0], self.length[m].cumsum()]) for m in MODALITIES}
        for modality in MODALITIES:
            with (folder / f"{modality}.bin").open("wb") as file:
                for protein in range(store.num_proteins):
                    file.write(store.read(modality, protein).features.astype("<f2").tobytes())
        self.shape = {m: (int(self.begin[m][-1]), store.widths[m]) for m in MODALITIES}

    def memmaps(self) -> dict[Modality, np.ndarray]:
        return {m: np.memmap(self.folder / f"{m}.bin", "<f2", "r", shape=self.shape[m]) for m in MODALITIES}


class Proteins(torch.utils.data.Dataset[Item]):
    """One protein an item, with the mask that training draws for it."""

    def __init__(self, files: FlatFiles, mask: MaskConfig, seed: int) -> None:
        self.files, self.mask, self.seed = files, mask, seed
        self.maps: dict[Modality, np.ndarray] | None = None

    def __getitem__(self, draw: tuple[int, int, int]) -> Item:
        protein, epoch, position = draw
        if self.maps is None:  # in the worker
            self.maps = self.files.memmaps()
        lengths = {m: int(self.files.length[m][protein]) for m in MODALITIES}
        visible = draw_visible(generator_for(self.seed, 0, epoch, position), lengths, self.mask)
        item = {}
        for modality in MODALITIES:
            begin, end = self.files.begin[modality][protein : protein + 2]
            rows = torch.from_numpy(np.array(self.maps[modality][begin:end]))
            item[modality] = (rows, torch.from_numpy(visible[modality]))
        return item


def pad_together(items: list[Item]) -> Batch:
    """Features (B, T, F), True where there is a token (`real`) and where it is seen (`visible`)."""
    batch = {}
    for modality in MODALITIES:
        rows, visible = zip(*(item[modality] for item in items), strict=True)
        longest = max(map(len, rows))
        batch[modality] = {
            "features": nn.utils.rnn.pad_sequence(list(rows), batch_first=True),
            "real": torch.stack([torch.arange(longest) < len(row) for row in rows]),
            "visible": torch.stack([pad(mask, (0, longest - len(mask))) for mask in visible]),
        }
    return batch


class Order(torch.utils.data.Sampler[list[tuple[int, int, int]]]):
    """Batches of (protein, epoch, position), in the order of the other side."""

    def __init__(self, batches: Sequence[list[tuple[int, int, int]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_loader(proteins: Proteins, batches: Sequence[list[tuple[int, int, int]]]) -> torch.utils.data.DataLoader[Any]:
    """Two workers that read ahead and pad."""
    return torch.utils.data.DataLoader(
        proteins, batch_sampler=Order(batches), num_workers=2, collate_fn=pad_together, persistent_workers=True
    )


class PaddedAMMA(nn.Module):
    """The asymmetric model in torch's own layers, with the weights of `ours`."""

    def __init__(self, ours: AMMA) -> None:
        super().__init__()
        config = ours.config
        self.width, self.decoder_width = config.width, config.decoder_width
        self.standardiser = ours.standardiser
        self.projections = nn.ModuleDict(
            {m: nn.Sequential(_linear(p.first), nn.GELU(), _linear(p.second)) for m, p in ours.projections.items()}
        )
        self.embeddings = nn.ParameterDict({m: v.detach().clone() for m, v in ours.embeddings.items()})
        self.encoder = _encoder(ours.encoder, config.width, config.num_heads, config.ffn)
        self.lifts = nn.ModuleDict({m: _linear(lift) for m, lift in ours.lifts.items()})
        self.decoder_embeddings = nn.ParameterDict({m: v.detach().clone() for m, v in ours.decoder_embeddings.items()})
        shape = (config.decoder_width, config.num_decoder_heads, config.decoder_ffn)
        self.decoders = nn.ModuleDict({m: _encoder(d.transformer, *shape) for m, d in ours.decoders.items()})
        self.heads = nn.ModuleDict({m: _linear(d.head) for m, d in ours.decoders.items()})

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch: mean squared error of each modality over real tokens, summed."""
        standardised = {m: self.standardiser(m, batch[m]["features"]) for m in MODALITIES}
        table = {width: sincos(torch.arange(1024), width) for width in {self.width, self.decoder_width}}
        parts, owners = [], []
        for modality in MODALITIES:
            owner_V, position_V = batch[modality]["visible"].nonzero(as_tuple=True)
            projected_VW = self.projections[modality](standardised[modality][owner_V, position_V]).float()
            parts.append(projected_VW + table[self.width][position_V] + self.embeddings[modality])
            owners.append(owner_V)
        owner_V = torch.cat(owners)
        by_owner_V = owner_V.argsort(stable=True)
        count_B = owner_V.bincount(minlength=len(batch[SEQ]["real"]))
        here_BJ = torch.arange(int(count_B.max())) < count_B[:, None]
        seen_BJW = torch.zeros(*here_BJ.shape, self.width).masked_scatter(
            here_BJ[..., None], torch.cat(parts)[by_owner_V]
        )
        fused_BJW = self.encoder(seen_BJW, src_key_padding_mask=~here_BJ)
        fused_VW = torch.empty_like(fused_BJW[here_BJ]).index_copy(0, by_owner_V, fused_BJW[here_BJ])
        inputs = {}
        for modality, part_VW in zip(MODALITIES, fused_VW.split([len(part) for part in parts]), strict=True):
            blank_BTW = self.blank(modality, batch, table)
            if modality not in self.lifts:
                continue
            lifted_VW = self.lifts[modality](part_VW).float()
            inputs[modality] = blank_BTW.index_put(
                batch[modality]["visible"].nonzero(as_tuple=True), lifted_VW, accumulate=True
            )
        real = {m: batch[m]["real"] for m in MODALITIES}
        residues = real[SEQ].shape[1]
        rebuilt = {
            SEQ: self.decode(SEQ, [inputs[SEQ]], [real[SEQ]])[:, :residues],
            STR: self.decode(STR, [inputs[SEQ], inputs[FUNC]], [real[SEQ], real[FUNC]])[:, :residues],
            FUNC: self.decode(
                FUNC,
                [inputs[SEQ], inputs[STR], self.blank(FUNC, batch, table)],
                [real[SEQ], real[STR], real[FUNC]],
            )[:, 2 * residues :],
        }
        losses = []
        for modality in MODALITIES:
            error_BTF = self.heads[modality](rebuilt[modality]).float() - standardised[modality]
            live_F = self.standardiser.live(modality)
            error_BT = (error_BTF * live_F).square().sum(-1)
            losses.append(error_BT[real[modality]].sum() / (real[modality].sum() * live_F.sum()))
        return torch.stack(losses).sum()

    def blank(self, modality: Modality, batch: Batch, table: dict[int, Tensor]) -> Tensor:
        """What stands at tokens before the content of visible ones is added: places and the modality."""
        proteins, longest = batch[modality]["real"].shape
        place_TW = table[self.decoder_width][:longest] + self.decoder_embeddings[modality]
        return place_TW.expand(proteins, -1, -1)

    def decode(self, target: Modality, parts: list[Tensor], real: list[Tensor]) -> Tensor:
        """One decoder over its sources side by side."""
        decoded: Tensor = self.decoders[target](torch.cat(parts, 1), src_key_padding_mask=~torch.cat(real, 1))
        return decoded


class PaddedSide:
    """Steps of the padded model with fused AdamW, clipping at norm 1, and bfloat16 autocast where asked for."""

    def __init__(self, ours: AMMA, *, lr: float, weight_decay: float, bf16: bool) -> None:
        self.model = PaddedAMMA(ours)
        self.bf16 = bf16
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)

    def take(self, batch: Batch) -> float:
        """One update; its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


def decoder_rows(batch: Batch) -> tuple[int, int]:
    """Rows of all decoders' layers: of real tokens, and those computed."""
    real = {m: int(batch[m]["real"].sum()) for m in MODALITIES}
    padded = {m: batch[m]["real"].numel() for m in MODALITIES}
    first, second = ({SEQ: n[SEQ], STR: n[SEQ] + n[FUNC], FUNC: sum(n.values())} for n in (real, padded))
    return sum(first.values()), sum(second.values())


def _linear(ours: nn.Linear) -> nn.Linear:
    theirs = nn.Linear(ours.in_features, ours.out_features)
    theirs.load_state_dict(ours.state_dict())
    return theirs


NAMES = {
    "attention.query_key_value.": "self_attn.in_proj_",
    "attention.output.": "self_attn.out_proj.",
    "attention_norm.": "norm1.",
    "ffn_norm.": "norm2.",
    "expand.": "linear1.",
    "contract.": "linear2.",
}


def _encoder(ours: Transformer, width: int, heads: int, ffn: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, ffn, 0.0, gelu, batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, len(ours.layers), nn.LayerNorm(width), enable_nested_tensor=False)
    state = {}
    for name, tensor in ours.state_dict().items():
        for mine, its in NAMES.items():
            name = name.replace(mine, its)
        state[name] = tensor
    theirs.load_state_dict(state)
    return theirs
