"""What a compiled program does, read off its text: arithmetic, loops and collectives.

XLA's own count takes every loop once. Here each operation is counted as often as the loops around
it turn; a loop whose length is known only as it runs is counted at a length that the caller gives.
"""

import itertools
import math
import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_ITEM_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}


class Collective(NamedTuple):
    """One operation that moves data between devices.

    Attributes:
        kind: Such as "all-gather".
        bytes: Of its result, on one device.
        loops: How many loops it lies in.
    """

    kind: str
    bytes: int
    loops: int


class Contents(NamedTuple):
    """What a program does on one device.

    Attributes:
        flops: Of matrix products and convolutions, a multiply-add as two.
        collectives: Every one.
    """

    flops: float
    collectives: list[Collective]


class _Instruction(NamedTuple):
    name: str
    result: str
    kind: str
    operands: list[str]
    rest: str
    literal: str


def read(text: str, *, turns: int = 1) -> Contents:
    """Reads ``Compiled.as_text()``.

    Args:
        text: The program.
        turns: How often a loop turns that does not say so itself.
    """
    blocks = re.findall(r"^(ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    programs = {name: _instructions(body) for _, name, body in blocks}
    (entry,) = (name for is_entry, name, _ in blocks if is_entry)
    times, loops = Counter({entry: 1.0}), Counter({entry: 0})
    # Callees come before their callers in the text.
    for name in reversed(programs):
        for instruction in programs[name]:
            known = _trips(instruction, programs)
            for how, callees in re.findall(
                r"(body|calls|to_apply|branch_computations)=\{?((?:%[\w.-]+(?:, )?)+)",
                instruction.rest,
            ):
                count = (known or turns) if how == "body" else 1
                for callee in re.findall(r"%([\w.-]+)", callees):
                    times[callee] += times[name] * count
                    loops[callee] = max(loops[callee], loops[name] + (how == "body"))
    flops, collectives = 0.0, []
    for name, instructions in programs.items():
        shapes = {one.name: one.result for one in instructions}
        for one in instructions:
            if one.kind == "convolution" or "__cudnn$conv" in one.rest:
                flops += times[name] * _convolution(one, shapes)
            elif one.kind == "dot":
                flops += times[name] * _dot(one, shapes)
            elif (kind := one.kind.removesuffix("-start")) in COLLECTIVES:
                collectives.append(Collective(kind, _bytes(one.result), loops[name]))
    return Contents(flops, collectives)


def _trips(one: _Instruction, programs: dict[str, list[_Instruction]]) -> int | None:
    """How often a loop turns: as XLA says, or the constant that its counter is compared with."""
    if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', one.rest):
        return int(said[1])
    if not (condition := re.search(r"condition=%([\w.-]+)", one.rest)):
        return None
    constants = [
        i for i in programs[condition[1]] if i.kind == "constant" and i.result[:3] == "s32"
    ]
    return int(constants[0].literal) if len(constants) == 1 else None


def _instructions(body: str) -> list[_Instruction]:
    found = []
    for line in re.sub(r"/\*.*?\*/", "", body).splitlines():
        match = re.match(r"\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)", line)
        if match:
            name, result, kind, operands, rest = match.groups()
            names = re.findall(r"%([\w.-]+)", operands)
            found.append(_Instruction(name, result, kind, names, rest, operands))
    return found


def _shape(result: str) -> list[int]:
    dims = re.match(r"\w+\[([\d,]*)\]", result)
    return [int(d) for d in dims[1].split(",") if d] if dims else []


def _bytes(result: str) -> int:
    parts = re.findall(r"(\w+)\[([\d,]*)\]", result)
    sizes = [math.prod(int(d) for d in dims.split(",") if d) for _, dims in parts]
    return sum(
        size * _ITEM_BYTES.get(kind, 4) for size, (kind, _) in zip(sizes, parts, strict=True)
    )


def _dot(one: _Instruction, shapes: dict[str, str]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    left = _shape(shapes[one.operands[0]])
    length = math.prod(left[int(d)] for d in contracted[1].split(",") if d) if contracted else 1
    return 2.0 * math.prod(_shape(one.result)) * length


def _convolution(one: _Instruction, shapes: dict[str, str]) -> float:
    """Multiply-adds of kernel entries that meet an entry of the input, not padding or a gap."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert labels is not None, one.rest
    result = one.result.lstrip("(")  # cuDNN's is a pair with its scratch space.
    image, kernel, output = *(shapes[name] for name in one.operands[:2]), result
    # cuDNN's gradients are described by the convolution that they are gradients of.
    if "convBackwardInput" in one.rest:
        image, output = output, image
    elif "convBackwardFilter" in one.rest:
        kernel, output = output, kernel
    left = dict(zip(labels[1], _shape(image), strict=True))
    right = dict(zip(labels[2], _shape(kernel), strict=True))
    out = dict(zip(labels[3], _shape(output), strict=True))
    window = re.search(r"window=\{(.*?)\}", one.rest)
    spatial = sorted(label for label in left if label.isdigit())

    def setting(word: str, default: str) -> list[list[int]]:
        found = re.search(rf"(?:^| ){word}=(\S+)", window[1] if window else "")
        parts = found[1].split("x") if found else [default] * len(spatial)
        return [[int(n) for n in part.split("_")] for part in parts]

    words = zip(
        spatial,
        setting("stride", "1"),
        setting("pad", "0_0"),
        setting("lhs_dilate", "1"),
        setting("rhs_dilate", "1"),
        strict=True,
    )
    meetings = 1
    for label, (stride,), (low, *_), (gap,), (spread,) in words:
        reach = (left[label] - 1) * gap
        places = (
            o * stride + k * spread - low
            for o, k in itertools.product(range(out[label]), range(right[label]))
        )
        meetings *= sum(0 <= place <= reach and place % gap == 0 for place in places)
    groups = re.search(r"batch_group_count=(\d+)", one.rest)
    batch = left["b"] // (int(groups[1]) if groups else 1)
    return 2.0 * meetings * batch * right["i"] * right["o"]
