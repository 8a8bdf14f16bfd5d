"""Pickles of numbers, read without unpickling: nothing in them is imported or called.

A pickle is a program for a stack machine, and Python's own machine will run any function that the
file names. This one knows just the opcodes with which Python (protocols 2 to 4) and numpy (1 and 2)
write plain data: None, bools, numbers, text, bytes, lists, tuples, dicts keyed by text, and arrays
and scalars of bools, integers and floats. Everything else is refused before it does anything. No
allocation is larger than the bytes that are there, and nothing recurses, so a hostile file costs
what its size allows and no more.

Opcodes: Lib/pickletools.py. Arrays: `array_reduce` and `arraydescr_reduce` in numpy's C sources.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from schemas import DataError

MAX_BYTES = 16 << 20
MAX_OPCODES = 300_000

_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_MAX_DIMENSIONS = 8


class _Name(enum.Enum):
    """What a file may name; it stands for the thing, which is never touched."""

    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    RECONSTRUCT = enum.auto()
    SCALAR = enum.auto()
    BYTES = enum.auto()
    ENCODE = enum.auto()


_NAMES = {
    "numpy ndarray": _Name.NDARRAY,
    "numpy dtype": _Name.DTYPE,
    "numpy.core.multiarray _reconstruct": _Name.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Name.RECONSTRUCT,
    "numpy.core.multiarray scalar": _Name.SCALAR,
    "numpy._core.multiarray scalar": _Name.SCALAR,
    "__builtin__ bytes": _Name.BYTES,  # protocol 2 writes bytes as calls, b"" as bytes()
    "_codecs encode": _Name.ENCODE,
}
_VALUES = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES"
    " SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset(["PROTO", "FRAME", "STOP"])


def load(data: bytes) -> Any:
    """What a pickle of plain data holds; arrays are read-only views of its bytes.

    Containers may share parts or hold themselves, as in any pickle: check types before recursing.

    Raises:
        DataError: if it is larger than `MAX_BYTES`, longer than `MAX_OPCODES`, not a whole pickle,
            or names or does anything that plain data does not need.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"a pickle of {len(data)} bytes, more than the {MAX_BYTES} allowed")
    machine = _Machine()
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            count += 1
            if count > MAX_OPCODES:
                raise DataError(f"a pickle of more than the {MAX_OPCODES} opcodes allowed")
            machine.step(opcode.name, argument)
    # its text can hold the file's own bytes at any length
    except ValueError as e:
        raise DataError(f"not a whole pickle: damaged after {count} opcodes") from e
    return machine.result()


@dataclasses.dataclass(eq=False)
class _Unbuilt:
    """An array, or with `dtype` a dtype, whose content the file has yet to give, and its places in
    the memo."""

    dtype: np.dtype | None
    places: list[int] = dataclasses.field(default_factory=list)


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.methods: dict[str, Callable[[Any], object]] = {
            "MARK": self._mark,
            "POP": lambda _: self._pop(),
            "POP_MARK": lambda _: self._items(),
            "TUPLE": lambda _: self._push(tuple(self._items())),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._items()),
            "SETITEM": lambda _: self._set([*reversed([self._pop(), self._pop()])]),
            "SETITEMS": lambda _: self._set(self._items()),
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "BINGET": self._get,
            "LONG_BINGET": self._get,
            "GLOBAL": self._name,
            "STACK_GLOBAL": lambda _: self._stack_name(),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
        }

    def step(self, opcode: str, argument: Any) -> None:
        """Runs one opcode. Raises DataError."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode in self.methods:
            self.methods[opcode](argument)
        elif opcode not in _NOTHING:
            raise DataError(f"a pickle with the opcode {opcode}, which plain data does not need")

    def result(self) -> Any:
        """What is left at the end. Raises DataError unless it is one value."""
        if self.below or len(self.stack) != 1:
            raise _damaged("its end leaves other than one value")
        return self.stack[0]

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack:
            raise _damaged("it takes from an empty stack")
        return self.stack.pop()

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise _damaged(f"no {kind.__name__} where one is filled")
        return self.stack[-1]

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _items(self) -> list[Any]:
        """Takes what lies above the last mark."""
        if not self.below:
            raise _damaged("it goes back to a mark that it never made")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        keys = items[::2]
        # text alone: numbers can be chosen to collide, nested tuples hash in exponential time
        if len(items) % 2 or any(type(key) is not str for key in keys):
            raise DataError("a pickle with a dict whose keys are not all text")
        target.update(zip(keys, items[1::2], strict=True))

    def _put(self, place: int) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[place] = value
        if isinstance(value, _Unbuilt):
            value.places.append(place)

    def _get(self, place: int) -> None:
        if place not in self.memo:
            raise _damaged(f"it recalls {place}, which it never kept")
        self.stack.append(self.memo[place])

    def _stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise _damaged("a name that is not text")
        self._name(f"{module} {name}")

    def _name(self, name: str) -> None:
        if name not in _NAMES:
            shown = ascii(name[:80].replace(" ", "."))
            raise DataError(f"a pickle that asks for {shown}, which plain data does not need")
        self.stack.append(_NAMES[name])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        first, *others = arguments if type(arguments) is tuple and arguments else (None,)
        if function is _Name.RECONSTRUCT and first is _Name.NDARRAY:
            self.stack.append(_Unbuilt(None))
        elif function is _Name.DTYPE:
            self.stack.append(_Unbuilt(_dtype(first)))
        elif function is _Name.SCALAR and len(others) == 1:
            self.stack.append(_array((), first, others[0])[()])
        elif function is _Name.BYTES and arguments == ():
            self.stack.append(b"")
        elif function is _Name.ENCODE and type(first) is str and others == ["latin1"]:
            self.stack.append(_latin1(first))
        else:
            raise DataError("a pickle that calls something, which plain data does not need")

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if not isinstance(target, _Unbuilt) or type(state) is not tuple:
            raise DataError("a pickle that sets an object's state, which plain data does not need")
        if target.dtype is not None:
            value = _ordered(target.dtype, state)
        elif len(state) == 5:
            _, shape, dtype, fortran, data = state
            value = _array(shape, dtype, data, "F" if fortran is True else "C")
        else:
            raise _damaged("an array of an unknown form")
        self.stack.append(value)
        for place in target.places:
            if self.memo[place] is target:
                self.memo[place] = value


def _damaged(reason: str) -> DataError:
    return DataError(f"a damaged pickle: {reason}")


def _latin1(text: str) -> bytes:
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as e:
        raise _damaged("bytes above 255") from e


def _dtype(code: Any) -> np.dtype:
    if type(code) is not str or not _DTYPE.fullmatch(code):
        shown = ascii(code[:20]) if type(code) is str else "one without a code"
        raise DataError(f"a pickle with an array of dtype {shown}; wanted bools, ints or floats")
    return np.dtype(code)


def _ordered(dtype: np.dtype, state: tuple[Any, ...]) -> np.dtype:
    """The dtype in the byte order of its state `(version, order, subarray, names, fields, …)`."""
    if len(state) < 5 or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
        raise _damaged("a dtype without a byte order")
    if any(part is not None for part in state[2:5]):
        raise DataError("a pickle with an array of a structured dtype; wanted plain numbers")
    return dtype.newbyteorder(state[1])  # type: ignore[arg-type]


def _array(shape: Any, dtype: Any, data: Any, order: Any = "C") -> np.ndarray:
    """A view of `data`, whose size must be what shape and dtype say."""
    if not isinstance(dtype, np.dtype) or type(data) is not bytes:
        raise DataError("a pickle with an array that is not plain numbers")
    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise _damaged("an array without a shape")
    if any(type(n) is not int or not 0 <= n <= MAX_BYTES for n in shape):
        raise _damaged("an array of an impossible shape")
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) or math.prod(max(n, 1) for n in shape) > MAX_BYTES:
        raise _damaged(f"an array of {len(data)} bytes whose shape needs another size")
    if not data:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order=order)
