"""One-pass reader of the common form of event batches, compiled by mypyc.

service/events/wire.py decodes every other form, and must read these batches to the same events.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final, TypeAlias, final

from librt.strings import BytesWriter, read_f64_be, read_i16_be, read_i32_be, read_i64_be, write_i32_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64

_Maker: TypeAlias = Callable[..., object]
_NIL: Final[i64] = 0xC0
_LARGEST_BLOCK: Final[i64] = 1 << 20
"""In tokens."""


def read_common_batch(
    packed: bytes, stored: _Maker, removed: _Maker, gpu: object
) -> tuple[float, list[object], int, bool] | None:
    """Gives a payload's timestamp, events, rank, and whether it stores a prompt's first block in a cache group.

    The common form is `[float, [map, …], rank]`: each map begins with its tag and is BlockStored with tokens or
    BlockRemoved, on the GPU, with no extra keys but a LoRA name. None for any other form. `stored` and `removed`
    construct the events from the fields of service.index.base.
    """
    reader = _Reader(packed, stored, removed, gpu)
    try:
        read = reader.batch()
    except IndexError:
        return None
    return None if reader.unsupported else read


@final
class _Reader:
    """A cursor at byte `at` of a payload; `unsupported` once it meets a form that is not read here."""

    def __init__(self, packed: bytes, stored: _Maker, removed: _Maker, gpu: object) -> None:
        self.packed = packed
        self.at: i64 = 0
        self.unsupported = False
        self.from_first_block = False
        self.stored = stored
        self.removed = removed
        self.gpu = gpu

    def batch(self) -> tuple[float, list[object], int, bool] | None:
        size: i64 = len(self.packed)
        if size < 11 or self.packed[0] & 0xFE != 0x92 or self.packed[1] != 0xCB:
            return None
        timestamp = read_f64_be(self.packed, 2)
        self.at = 10
        events: list[object] = []
        count = self.count(0x90, 0xDC)
        while count > 0 and not self.unsupported:
            count -= 1
            self.event(events)
        if self.unsupported:
            return None
        rank: i64 = 0
        if self.packed[0] == 0x93 and not self.accept_nil():
            rank = self.number()
        if self.at != size or rank < 0:
            return None
        return timestamp, events, rank, self.from_first_block

    def event(self, events: list[object]) -> None:
        fields = self.count(0x80, 0xDE) - 1
        if not self.accept(b"\xa4type"):
            self.unsupported = True
        elif self.accept(b"\xabBlockStored"):
            events.append(self.stored_event(fields))
        elif self.accept(b"\xacBlockRemoved"):
            events.append(self.removed_event(fields))
        else:
            self.unsupported = True

    def removed_event(self, fields: i64) -> object:
        hashes: object = None
        group: object = None
        while fields > 0 and not self.unsupported:
            fields -= 1
            length = self.length()
            if length == 12 and self.accept(b"block_hashes"):
                hashes = self.hashes()
            elif length == 6 and self.accept(b"medium"):
                self.expect_gpu()
            elif length == 9 and self.accept(b"group_idx"):
                group = self.number_or_none()
            else:
                self.skip_unknown(length)
        if hashes is None or self.unsupported:
            self.unsupported = True
            return None
        return self.removed(hashes, self.gpu, group)

    def stored_event(self, fields: i64) -> object:
        blocks: i64 = -1
        token_bytes: i64 = 0
        size: i64 = 0
        hashes: object = None
        tokens: object = None
        parent: object = None
        lora_id: object = None
        lora_name: object = None
        group: object = None
        kind: object = None
        window: object = None
        while fields > 0 and not self.unsupported:
            fields -= 1
            length = self.length()
            if length == 12 and self.accept(b"block_hashes"):
                found = self.hashes()
                blocks = len(found)
                hashes = found
            elif length == 17 and self.accept(b"parent_block_hash"):
                parent = None if self.accept_nil() else self.number()
            elif length == 9 and self.accept(b"token_ids"):
                read = self.tokens()
                token_bytes = len(read)
                tokens = array("I", read)
            elif length == 10 and self.accept(b"block_size"):
                size = self.number()
            elif length == 6 and self.accept(b"medium"):
                self.expect_gpu()
            elif length == 7 and self.accept(b"lora_id"):
                lora_id = self.number_or_none()
            elif length == 9 and self.accept(b"lora_name"):
                lora_name = self.text_or_none()
            elif length == 10 and self.accept(b"extra_keys"):
                self.skip_nil_array()
            elif length == 9 and self.accept(b"group_idx"):
                group = self.number_or_none()
            elif length == 18 and self.accept(b"kv_cache_spec_kind"):
                kind = "full_attention" if self.accept(b"\xaefull_attention") else self.text_or_none()
            elif length == 28 and self.accept(b"kv_cache_spec_sliding_window"):
                window = self.number_or_none()
            elif (length == 19 and self.accept(b"lookahead_token_ids")) or (
                length == 10 and self.accept(b"cache_salt")
            ):
                self.expect_nil()
            else:
                self.skip_unknown(length)
        unnamed_lora = lora_name is None and lora_id is not None
        whole = 0 < token_bytes == blocks * size * 4 and 0 < size <= _LARGEST_BLOCK
        if unnamed_lora or not whole or self.unsupported:
            self.unsupported = True
            return None
        if parent is None and kind is not None:
            self.from_first_block = True
        return self.stored(hashes, parent, tokens, size, self.gpu, lora_name, (), group, kind, window)

    def accept(self, expected: bytes) -> bool:
        """Consumes `expected` if it is next."""
        packed = self.packed
        start = self.at
        length: i64 = len(expected)
        position: i64 = 0
        while position < length:
            if packed[start + position] != expected[position]:
                return False
            position += 1
        self.at = start + length
        return True

    def accept_nil(self) -> bool:
        if self.packed[self.at] != _NIL:
            return False
        self.at += 1
        return True

    def expect_nil(self) -> None:
        if not self.accept_nil():
            self.unsupported = True

    def expect_gpu(self) -> None:
        if not self.accept_nil() and not self.accept(b"\xa3GPU"):
            self.unsupported = True

    def skip_nil_array(self) -> None:
        """Skips nil, or an array of nils (extra_keys of blocks without any)."""
        if self.accept_nil():
            return
        count = self.count(0x90, 0xDC)
        while count > 0 and self.accept_nil():
            count -= 1
        if count != 0:
            self.unsupported = True

    def skip_unknown(self, length: i64) -> None:
        """Skips an unknown field whose name has `length` bytes, if its value is a string, a number or nil."""
        start = self.at
        if length < 0 or self.packed[start : start + length] == b"type":
            self.unsupported = True
            return
        self.at += length
        kind: i64 = self.packed[self.at]
        if kind & 0xE0 == 0xA0:
            self.at += 1 + (kind & 0x1F)
        elif kind == 0xD9:
            self.at += 2 + i64(self.packed[self.at + 1])
        elif kind != _NIL:
            self.number()
        else:
            self.at += 1

    def length(self) -> i64:
        """Reads the header of a fixstr and gives its length; -1 for anything else."""
        kind: i64 = self.packed[self.at]
        self.at += 1
        return kind & 0x1F if kind & 0xE0 == 0xA0 else -1

    def count(self, short: i64, long: i64) -> i64:
        """Reads the header of an array or map: `short` is its fixed form, `long` that with a 16-bit count."""
        kind: i64 = self.packed[self.at]
        self.at += 1
        if kind & 0xF0 == short:
            return kind & 0xF
        if kind == long:
            self.at += 2
            return i64(read_i16_be(self.packed, self.at - 2)) & 0xFFFF
        if kind == long + 1:
            self.at += 4
            return i64(read_i32_be(self.packed, self.at - 4)) & 0xFFFFFFFF
        self.unsupported = True
        return 0

    def number_or_none(self) -> object:
        """Reads nil or a number of at least 0."""
        if self.accept_nil():
            return None
        number = self.number()
        if number < 0:
            self.unsupported = True
        return number

    def number(self) -> i64:
        """Reads an integer as a signed 64-bit one."""
        packed = self.packed
        kind: i64 = packed[self.at]
        self.at += 1
        if kind < 0x80:
            return kind
        if kind == 0xCF or kind == 0xD3:
            self.at += 8
            return read_i64_be(packed, self.at - 8)
        if kind == 0xCC:
            self.at += 1
            return i64(packed[self.at - 1])
        if kind == 0xCD:
            self.at += 2
            return i64(read_i16_be(packed, self.at - 2)) & 0xFFFF
        if kind == 0xCE:
            self.at += 4
            return i64(read_i32_be(packed, self.at - 4)) & 0xFFFFFFFF
        self.unsupported = True
        return 0

    def text_or_none(self) -> object:
        if self.accept_nil():
            return None
        length = self.length()
        start = self.at
        self.at += length
        if length < 0 or self.at > len(self.packed):
            self.unsupported = True
            return None
        text = self.packed[start : self.at]
        if not text.isascii():
            self.unsupported = True
            return None
        return text.decode("ascii")

    def hashes(self) -> vec[i64]:
        packed = self.packed
        count = self.count(0x90, 0xDC)
        found = vec[i64](capacity=min(count, i64(len(packed))))
        while count > 0:
            count -= 1
            if packed[self.at] == 0xCF:
                found = append(found, read_i64_be(packed, self.at + 1))
                self.at += 9
            else:
                found = append(found, self.number())
        return found

    def tokens(self) -> bytes:
        """Reads token ids into little-endian unsigned 32-bit integers."""
        packed = self.packed
        ids = BytesWriter()
        count = self.count(0x90, 0xDC)
        at = self.at
        while count > 0:
            count -= 1
            kind: i64 = packed[at]
            if kind == 0xCD:
                write_i32_le(ids, i32(read_i16_be(packed, at + 1)) & 0xFFFF)
                at += 3
            elif kind < 0x80:
                write_i32_le(ids, i32(kind))
                at += 1
            elif kind == 0xCE:
                write_i32_le(ids, read_i32_be(packed, at + 1))
                at += 5
            elif kind == 0xCC:
                write_i32_le(ids, i32(packed[at + 1]))
                at += 2
            else:
                self.unsupported = True
                break
        self.at = at
        return ids.getvalue()
