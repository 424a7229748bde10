import gzip
import io
import zlib

import pytest

from amma.manifests.compression import FREE_BYTES, MAX_RATIO, GzipError, expanded


def expand(packed: bytes, **options: int) -> bytes:
    return b"".join(expanded(io.BytesIO(packed), len(packed), **options))


def code_of(packed: bytes, **options: int) -> str:
    with pytest.raises(GzipError) as caught:
        expand(packed, **options)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 7])
def test_whole_streams_come_out_as_they_went_in(size: int) -> None:
    data = bytes(i * i % 251 for i in range(1000)) * (size // 1000 + 1)
    assert expand(gzip.compress(data[:size], 1)) == data[:size]


def test_streams_one_after_the_other_are_one() -> None:
    assert expand(gzip.compress(b"one") + gzip.compress(b"two")) == b"onetwo"


def test_nothing_is_too_much_for_a_small_file_however_well_it_packs() -> None:
    data = bytes(FREE_BYTES // 8)
    packed = gzip.compress(data)
    assert len(data) > MAX_RATIO * len(packed)
    assert len(expand(packed)) == len(data)


def test_a_bomb_is_not_expanded_to_its_end() -> None:
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    sizes: list[int] = []
    with pytest.raises(GzipError) as caught:
        sizes.extend(map(len, expanded(io.BytesIO(packed), len(packed))))
    assert caught.value.code == "E_BOMB"
    assert FREE_BYTES / 2 < sum(sizes) <= max(FREE_BYTES, MAX_RATIO * len(packed))


def test_the_limit_is_to_the_byte() -> None:
    packed = gzip.compress(b"x" * 1000)
    assert len(expand(packed, limit=1000)) == 1000
    assert code_of(packed, limit=999) == "E_BOMB"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_stream_is_damaged(kept: float) -> None:
    packed = gzip.compress(bytes(i * i % 251 for i in range(100_000)))
    assert code_of(packed[: int(len(packed) * kept)]) == "E_GZIP"


def test_nothing_of_a_short_stream_comes_before_its_checksum() -> None:
    packed = bytearray(gzip.compress(b"x" * 1000))
    packed[-6] ^= 1
    stream = expanded(io.BytesIO(bytes(packed)), len(packed))
    with pytest.raises(GzipError):
        next(stream)
