"""Calls Lua scripts through typed functions: KEYS and ARGV of a script follow from the function's declaration.

A script finds the names of its state version that it asks for and each parameter as a local variable, converted by its
type, and the constants of the layout; the header of its file repeats them in order, which a test compares.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Any, Generic, ParamSpec

import msgpack

from stormfold.redis.errors import StaleStateVersion, translate_errors
from stormfold.redis.layout import Key, Keys, ScriptReply, lua_constants

Packed = Annotated[Sequence[Any] | Mapping[str, str], "msgpack"]
"""A parameter that reaches the script as a table."""

P = ParamSpec("P")

_FROM_ARGV: dict[Any, str] = {
    str: "ARGV[%d]",
    int: "tonumber(ARGV[%d])",
    int | None: "tonumber(ARGV[%d])",
    bool: "ARGV[%d] == '1'",
    Packed: "cmsgpack.unpack(ARGV[%d])",
}
"""Lua expression of an argument, by the type of its parameter. None reaches the script as nil."""


class RedisAccess:
    """A client, and the key names under one prefix."""

    def __init__(self, redis: Any, prefix: str) -> None:
        """`redis` is a `redis.asyncio.Redis` that does not decode replies; its types are `bytes | str` for each."""
        self.redis = redis
        self.prefix = prefix
        self.keys = Keys(prefix)


class Script(Generic[P]):
    """A Lua script of this package, called like the function that declares it, for one state version."""

    def __init__(self, declaration: Callable[P, None], names: Sequence[str], libraries: Sequence[str]) -> None:
        self.name = declaration.__name__
        self.names = names
        types: dict[str, Any] = {name: str if name.endswith(("number", "_prefix")) else Key for name in names}
        types |= {name: item.annotation for name, item in inspect.signature(declaration).parameters.items()}
        self.keys = [name for name, annotation in types.items() if annotation is Key]
        self.arguments = {name: annotation for name, annotation in types.items() if annotation is not Key}
        self.body = _read(self.name)
        self.library = "".join(map(_read, libraries))
        self.source = "".join((self._prelude(), "\n", self.library, self.body))

    async def __call__(self, access: RedisAccess, number: int, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Returns the reply. Raises `StaleStateVersion` if it is `STALE`, and the errors of `translate_errors`."""
        assert not args, "scripts take keyword arguments only"
        names = access.keys.of(number)
        values = {name: getattr(names, name) for name in self.names} | kwargs
        async with translate_errors():
            reply = await access.redis.register_script(self.source)(
                keys=[values[name] for name in self.keys],
                args=[_encode(values[name], annotation) for name, annotation in self.arguments.items()],
            )
        if isinstance(reply, list) and reply[0] == ScriptReply.STALE:
            raise StaleStateVersion
        return reply

    def _prelude(self) -> str:
        """One line, so that the line numbers in Redis' errors differ by one only, and by those of the libraries."""
        values = {name: f"KEYS[{index}]" for index, name in enumerate(self.keys, 1)}
        for index, (name, annotation) in enumerate(self.arguments.items(), 1):
            values[name] = _FROM_ARGV[annotation] % index
        for name, constant in lua_constants().items():
            values[name] = repr(constant)
        return f"local {', '.join(values)} = {', '.join(values.values())}"


def _read(name: str) -> str:
    return (files("stormfold.redis") / f"{name}.lua").read_text()


def script(*names: str, libraries: Sequence[str] = ()) -> Callable[[Callable[P, None]], Script[P]]:
    """Declares a script that gets these attributes of `VersionKeys` before the parameters of the function.

    `libraries` are names of Lua files without parameters of their own that come before the script's.
    """
    return lambda declaration: Script(declaration, names, libraries)


def pack(value: Any) -> bytes:
    """msgpack for Lua: Redis' cmsgpack knows no bin type, and msgspec packs bytes as nothing else."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def _encode(value: Any, annotation: Any) -> Any:
    if annotation is Packed:
        return pack(value)
    if value is None:
        return ""
    return int(value) if annotation is bool else value
