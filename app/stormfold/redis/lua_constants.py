"""The constants that every script gets as local variables."""

import struct

from stormfold.merge import QUALIFIED
from stormfold.redis import layout
from stormfold.redis.packed_row import LENGTH, ROW, ROW_FIELDS, ROW_MEMBER, ROW_NUMBERS


def lua_constants() -> dict[str, str | int]:
    """Constants by their name in Lua. Indexes of a row begin at 1."""
    names = (
        "SEPARATOR", "NUMBER", "PARTITIONS", "GAP", "GRACE", "SLICE", "CLOSED_BEFORE", "WINDOWS_SINCE", "REQUESTED_AT",
        "HORIZON", "ALERTS_PARTITIONS", "MARKS_VERSION", "TIMESTAMP_SUFFIX", "WHOLE_MEMBERS", "PART_MEMBERS",
        "FINGERPRINT_BYTES", "FLAG_VALUES", "MAX_PREFIXES",
    )  # fmt: skip
    return {
        **{name: getattr(layout, name) for name in names},
        "META_FIELD": layout.META_FIELD.decode(),
        "SUMMARY": _lua_format(layout.SUMMARY),
        "SUMMARY_BYTES": layout.SUMMARY.size,
        "TAIL_SEVERITY": layout.TAIL_SEVERITY + 1,
        "TAIL_META": layout.TAIL_META + 1,
        "TAIL_PREFIXES": layout.TAIL_PREFIXES,
        "PART": _lua_format(layout.PART),
        "NARROW_VALUES": 1 << 16,
        # One number, which is count × `NARROW_VALUES` + time: Lua takes numbers one by one.
        "NARROW": f"{layout.BYTE_ORDER}I4",
        "NARROW_BYTES": layout.NARROW.size,
        "NARROW_END": _lua_format(layout.NARROW_END),
        "NARROW_END_BYTES": layout.NARROW_END.size,
        "WIDE": _lua_format(layout.WIDE),
        "WIDE_BYTES": layout.WIDE.size,
        "WIDE_END": _lua_format(layout.WIDE_END),
        "WIDE_END_BYTES": layout.WIDE_END.size,
        "QUALIFIED": QUALIFIED,
        "ROW": _lua_format(ROW) + f"{_lua_format(LENGTH)}c0" * (len(ROW_FIELDS) - ROW_NUMBERS),
        "ROW_MEMBER": _lua_format(ROW_MEMBER),
        "ROW_MEMBER_BYTES": ROW_MEMBER.size,
        **{f"ROW_{name.upper()}": index for index, name in enumerate(ROW_FIELDS, 1)},
        **{reply.name: reply.value for reply in layout.ScriptReply},
    }


def _lua_format(packing: struct.Struct) -> str:
    return "".join({"H": "I2", "I": "I4", "Q": "I8"}.get(code, code) for code in packing.format)
