"""`Costs`: what one run of a compiled program computes, moves and sends, on each device."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from trainer.train.hlo import Array, Computation, Instruction, parse

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# they name or group what is there, or their costs are those of what they call
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "opt-barrier", "iota",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """All exchanges of one kind. `bytes` are those that a device receives."""

    count: int
    bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one device.

    Attributes:
        flops: of matrix products and convolutions, two for each multiply-add.
        memory: bytes read from and written to HBM, each fusion's inputs and outputs once.
        collectives: by kind.
    """

    flops: float
    memory: float
    collectives: dict[str, Collective]

    @property
    def exchanged(self) -> float:
        """Bytes that the device receives."""
        return sum(c.bytes for c in self.collectives.values())


def costs(text: str) -> Costs:
    """The costs of a program, of its text as `compiled.as_text()` gives it."""
    computations, entry = parse(text)
    counts: dict[str, int] = {}
    sizes: dict[str, float] = {}
    flops = memory = 0.0
    for times, computation, instruction, fused in _walk(computations, entry, 1, False):
        flops += times * _flops(computation, instruction)
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-reduce" and fused:
            kind = "reduce-scatter"  # as TPUs write it: a sum fused with the slice that is kept
        if kind in COLLECTIVES:
            counts[kind] = counts.get(kind, 0) + times
            sizes[kind] = sizes.get(kind, 0) + times * _received(computation, instruction, kind)
        if not fused and instruction.opcode not in _FREE:
            memory += times * _moved(computations, computation, instruction)
    found = {kind: Collective(count=counts[kind], bytes=sizes[kind]) for kind in sorted(counts)}
    return Costs(flops=flops, memory=memory, collectives=found)


def _walk(
    computations: dict[str, Computation], name: str, times: int, fused: bool
) -> Iterator[tuple[int, Computation, Instruction, bool]]:
    """Every instruction that runs, with how often, and whether inside a fusion."""
    computation = computations[name]
    for instruction in computation.instructions.values():
        yield times, computation, instruction, fused
        opcode = instruction.opcode
        if opcode == "while":
            body, condition = (instruction.attribute(n) for n in ("body", "condition"))
            if body and condition:
                repeats = times * trips(computations[condition], instruction)
                yield from _walk(computations, body, repeats, fused)
        elif opcode in ("fusion", "call", "async-start"):
            called = instruction.attribute("calls") or instruction.attribute("to_apply")
            if called:
                inside = fused or opcode == "fusion"
                yield from _walk(computations, called, times, inside)


def trips(condition: Computation, loop: Instruction) -> int:
    """How often a loop runs: JAX's count from 0 while they are below a constant."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    limits = [
        int(found[1])
        for i in condition.instructions.values()
        if i.opcode == "constant" and (found := re.match(r"(\d+)\)", i.attributes))
    ]
    return max(limits, default=1)


def _flops(computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode == "dot":
        contracted = _numbers(instruction.attributes, "lhs_contracting_dims")
        left = computation.inputs(instruction)[0][0]
        depth = math.prod(left.shape[i] for i in contracted)
        return 2.0 * instruction.outputs[0].size * depth
    if instruction.opcode == "convolution":
        left, right = (types[0] for types in computation.inputs(instruction)[:2])
        return _convolution(instruction.attributes, left, right, instruction.outputs[0])
    return 0.0


def _convolution(attributes: str, left: Array, right: Array, out: Array) -> float:
    """Multiply-adds at places that exist: not in the padding, not between dilated pixels. That also
    counts matrix products right, which TPUs write as convolutions."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if not labels:
        return 0.0
    of_left, of_right, of_out = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    dims = sorted(letter for letter in of_out if letter.isdigit())
    total = 2.0
    for i, letter in enumerate(dims):
        pad = fields["pad"].split("x")[i].split("_")[0] if "pad" in fields else "0"

        def field(name: str, i: int = i) -> int:
            return int(fields[name].split("x")[i]) if name in fields else 1

        total *= _pairs(
            left.shape[of_left.index(letter)],
            out.shape[of_out.index(letter)],
            field("size"),
            field("stride"),
            int(pad),
            field("lhs_dilate"),
            field("rhs_dilate"),
        )
    groups = re.search(r"batch_group_count=(\d+)", attributes)
    batch = left.shape[of_left.index("b")] / (int(groups[1]) if groups else 1)
    return total * batch * out.shape[of_out.index("f")] * right.shape[of_right.index("i")]


@functools.cache
def _pairs(
    inputs: int, outputs: int, size: int, stride: int, pad: int, dilate: int, spread: int
) -> int:
    """Pairs of output and kernel positions along one dimension that meet a pixel."""
    reach = (inputs - 1) * dilate
    count = 0
    for k in range(size):
        for o in range(outputs):
            place = o * stride + k * spread - pad
            count += 0 <= place <= reach and place % dilate == 0
    return count


def _moved(
    computations: dict[str, Computation], computation: Computation, instruction: Instruction
) -> float:
    """Bytes between HBM and the chip."""
    opcode = instruction.opcode
    if opcode.endswith("-done"):
        return 0.0
    inputs = computation.inputs(instruction)
    if opcode == "dynamic-slice":
        return 2 * _slow(instruction.outputs)
    if opcode == "dynamic-update-slice":
        return 2 * _slow(inputs[1])
    called = instruction.attribute("calls") if opcode == "fusion" else None
    if not called:
        return sum(map(_slow, inputs)) + _slow(instruction.outputs)
    inside = computations[called]
    reads = sum(
        min(_slow(types), _read(inside, parameter))
        for parameter, types in zip(inside.parameters, inputs, strict=False)
    )
    return reads + min(_slow(instruction.outputs), _written(inside))


def _read(computation: Computation, parameter: Instruction) -> float:
    """Bytes of a fusion's input that it needs: those of its slices if nothing else is read."""
    total = 0.0
    for user in computation.users[parameter.name]:
        if user.opcode == "bitcast":
            total += _read(computation, user)
        elif user.opcode == "dynamic-slice":
            total += sum(a.bytes for a in user.outputs)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # written in place
        else:
            return math.inf
    return total


def _written(computation: Computation) -> float:
    """Bytes of a fusion's output that it makes: those of the update if the rest is in place."""
    root = computation.root
    while root.opcode == "bitcast" and root.operands:
        root = computation.instructions[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return math.inf
    return sum(a.bytes for a in computation.inputs(root)[1])


def _slow(types: tuple[Array, ...]) -> float:
    return sum(a.bytes for a in types if not a.fast)


def _received(computation: Computation, instruction: Instruction, kind: str) -> float:
    """Bytes that each device takes in, by the algorithms that move the fewest (rings)."""
    devices = group_size(instruction.attributes)
    share = (devices - 1) / devices if devices else 1.0
    given = sum(a.bytes for types in computation.inputs(instruction) for a in types)
    if kind == "all-gather":
        return given * (devices - 1) if devices else sum(a.bytes for a in instruction.outputs)
    if kind == "all-reduce":
        return 2 * given * share
    return given if kind == "collective-permute" else given * share


def group_size(attributes: str) -> int:
    """Devices that exchange with each other; 0 if the text does not tell."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(tiled[1])
    if mesh := re.search(r"replica_groups=\w*\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    return 0


def _numbers(attributes: str, name: str) -> list[int]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", attributes)
    return [int(n) for n in found[1].split(",") if n] if found else []
