import torch
from torch import nn

from amma.train.model.tokens import join
from amma.train.model.transformer import Transformer


def torch_twin(ours: Transformer, width: int, heads: int, ffn: int) -> nn.TransformerEncoder:
    """torch's own pre-norm encoder with our weights."""
    layer = nn.TransformerEncoderLayer(width, heads, ffn, 0.0, "gelu", batch_first=True, norm_first=True)
    twin = nn.TransformerEncoder(layer, len(ours.layers), norm=nn.LayerNorm(width), enable_nested_tensor=False).double()
    names = {
        "attention.query_key_value.": "self_attn.in_proj_",
        "attention.output.": "self_attn.out_proj.",
        "attention_norm.": "norm1.",
        "ffn_norm.": "norm2.",
        "expand.": "linear1.",
        "contract.": "linear2.",
    }
    state = {}
    for name, tensor in ours.state_dict().items():
        for mine, theirs in names.items():
            name = name.replace(mine, theirs)
        state[name] = tensor
    twin.load_state_dict(state)
    return twin


def test_packed_layers_equal_torchs_encoder_protein_by_protein() -> None:
    torch.manual_seed(0)
    ours = Transformer(3, 16, 4, 32).double()
    for parameter in ours.parameters():  # biases and norms too: at their initial values much would go unnoticed
        nn.init.normal_(parameter, std=0.3)
    twin = torch_twin(ours, 16, 4, 32)
    lengths = [5, 0, 7, 5, 1]
    x = torch.randn(sum(lengths), 16, dtype=torch.float64)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    packed = ours(x, offsets)
    for start, length in zip(offsets.tolist(), lengths, strict=False):
        if length:
            alone = twin(x[None, start : start + length])[0]
            torch.testing.assert_close(packed[start : start + length], alone, rtol=0, atol=1e-10)


def test_reading_some_rows_gives_what_the_whole_stack_has_there() -> None:
    torch.manual_seed(0)
    ours = Transformer(2, 16, 4, 32).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    parts = [torch.tensor([0, *lengths]).cumsum(0) for lengths in ([5, 0, 7, 5, 1], [2, 3, 0, 2, 9])]
    rows = [torch.randn(int(part[-1]), 16, dtype=torch.float64) for part in parts]
    for read in range(2):
        joint = join(parts, torch.device("cpu"), read=read)
        whole = joint.take_apart(ours(joint.lay(rows), joint.offsets))[read]
        some = ours(joint.lay(rows), joint.offsets, joint.readout)[joint.readout.back_T]
        torch.testing.assert_close(some, whole, rtol=0, atol=1e-12)


def test_queries_keys_and_values_start_as_three_square_maps() -> None:
    torch.manual_seed(0)
    weight = Transformer(1, 64, 4, 64).layers[0].attention.query_key_value.weight
    bound = (6 / (64 + 64)) ** 0.5
    for square in weight.chunk(3):
        assert bound * 0.98 < square.abs().max() <= bound


def test_no_rows_at_all_are_no_trouble() -> None:
    empty = Transformer(2, 8, 2, 16)(torch.zeros(0, 8), torch.zeros(4, dtype=torch.int64))
    assert empty.shape == (0, 8)


def test_computing_layers_anew_gives_the_same_gradients_to_the_bit_and_keeps_less() -> None:
    torch.manual_seed(0)
    ours = Transformer(3, 16, 4, 32)
    parts = [torch.tensor([0, *lengths]).cumsum(0) for lengths in ([5, 0, 7, 5, 1], [2, 3, 0, 2, 9])]
    x = torch.randn(34, 16)
    joint = join(parts, torch.device("cpu"), read=1)
    found = []
    for recomputes in (False, True):
        ours.recomputes = recomputes
        ours.zero_grad()
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        given = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoded = ours(given, joint.offsets, joint.readout)
            size = sum(kept.values())
        encoded.square().sum().backward()
        found.append((size, encoded, given.grad, [parameter.grad for parameter in ours.parameters()]))
    (size, *plain), (smaller, *anew) = found
    assert smaller < size / 3
    torch.testing.assert_close(anew, plain, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(ours(x, joint.offsets, joint.readout), encoded)
