"""The text of a compiled XLA program, as computations of instructions.

XLA's own cost analysis counts the body of a loop once. Here every instruction can be found with
what it reads, so that a loop's costs can be multiplied by how often it runs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w\-]+)\((.*)$", re.DOTALL)
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array's type. `fast` says that it is not in HBM but in memory on the chip."""

    dtype: str
    shape: tuple[int, ...]
    fast: bool

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """As it would be without padding."""
        bits = re.fullmatch(r"[a-z]+(\d+)\w*", self.dtype)
        each = _BYTES.get(self.dtype, int(bits[1]) / 8 if bits else 4)
        return self.size * each


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """The word after `name=`."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                if operand in found:
                    found[operand].append(instruction)
        return found

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions.values() if i.root)

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In the order of the call's operands."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.attributes.partition(")")[0]))

    def inputs(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """The types of what an instruction reads."""
        return [self.instructions[o].outputs for o in instruction.operands]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of `compiled.as_text()` by name, and the name of the one that is entered."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = {}
            computations[head[2]] = Computation(head[2], current)
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[2], found[3], root=bool(found[1]))
            current[instruction.name] = instruction
    return computations, entry


def arrays(text: str) -> tuple[Array, ...]:
    """All array types in a text, those of a tuple in order."""
    return tuple(
        Array(dtype, _dimensions(shape), bool(layout) and "S(" in layout)
        for dtype, shape, layout in _ARRAY.findall(text)
    )


def _dimensions(text: str) -> tuple[int, ...]:
    return tuple(int(n.lstrip("<=")) for n in text.split(",") if n)


def _instruction(name: str, text: str, *, root: bool) -> Instruction:
    kind, rest = _split_type(text)
    found = _OPCODE.match(rest)
    opcode, rest = (found[1], found[2]) if found else (rest, "")
    inside, attributes = _until_closed(rest)
    if opcode in ("parameter", "constant"):
        return Instruction(name, opcode, arrays(kind), (), rest, root)
    return Instruction(name, opcode, arrays(kind), tuple(_NAME.findall(inside)), attributes, root)


def _split_type(text: str) -> tuple[str, str]:
    """The type that an instruction begins with, a tuple's in parentheses, and the rest."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    inside, rest = _until_closed(text[1:])
    return inside, rest.lstrip()


def _until_closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes an open one, and after it."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:i], text[i + 1 :]
    return text, ""
