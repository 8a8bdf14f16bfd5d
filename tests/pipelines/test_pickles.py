"""Pickles of numbers come back as they were; pickles of anything else do nothing at all."""

import contextlib
import copyreg
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pipelines.ops import pickles
from schemas import DataError

PROTOCOLS = (2, 3, 4)
DTYPES = ["b1", "i1", "u1", "<i2", ">i2", "u4", "i8", "u8", "f2", "<f4", ">f4", "f8", ">f8"]


def numpy_1(data: bytes) -> bytes:
    """A pickle of protocol 2 or 3 under the names that numpy 1 wrote."""
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def numpy_2(data: bytes) -> bytes:
    return data.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda x: (
        st.lists(x, max_size=4)
        | st.tuples(x, x)
        | st.tuples(x, x, x, x)
        | st.dictionaries(st.text(max_size=5), x, max_size=4)
    ),
    max_leaves=20,
)


@given(plain, st.sampled_from(PROTOCOLS))
@settings(max_examples=300, deadline=None)
def test_plain_data_comes_back(value, protocol):
    found = pickles.load(pickle.dumps(value, protocol))
    assert found == value
    assert pickle.dumps(found, 4) == pickle.dumps(pickle.loads(pickle.dumps(value, protocol)), 4)


@given(st.binary(max_size=300), st.sampled_from(PROTOCOLS))
def test_bytes_come_back(value, protocol):
    assert pickles.load(pickle.dumps([value, value], protocol)) == [value, value]


@pytest.mark.parametrize("renamed", [numpy_1, numpy_2])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_and_scalars_come_back(dtype, protocol, renamed):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2, (3, 4)) if dtype == "b1" else rng.integers(0, 100, (3, 4))
    array = whole.astype(dtype)
    arrays = [array, np.asfortranarray(array), array[:0], array[1], array[:, ::2], array[0, 0]]
    data = pickle.dumps({"a": arrays, "again": arrays[0]}, protocol)
    found = pickles.load(renamed(data) if protocol < 4 else data)
    for x, y in zip([*arrays, arrays[0]], [*found["a"], found["again"]], strict=True):
        assert type(x) is type(y) and x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(x, y)
    assert found["again"] is found["a"][0]


def test_both_numpys_names_of_protocol_4():
    data = pickle.dumps(np.arange(3), 4)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        old = b"numpy._core.multiarray" if b"_core" in data else b"numpy.core.multiarray"
        named = data.replace(bytes([len(old)]) + old, bytes([len(module)]) + module)
        assert pickles.load(named).tolist() == [0, 1, 2]


def test_a_list_that_holds_itself_ends():
    value: list = [1]
    value.append(value)
    found = pickles.load(pickle.dumps(value, 4))
    assert found[0] == 1 and found[1] is found and len(found) == 2
    nested: dict = {}
    nested["a"] = (nested,)
    found = pickles.load(pickle.dumps(nested, 4))
    assert found["a"][0] is found


class Runs:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stateful:
    """Pickled with a state that a method of its own is given."""

    def __setstate__(self, state):
        raise AssertionError("it ran")

    def __getstate__(self):
        return {"x": 1}


class Slotted(dict):
    pass


def refused(data: bytes) -> str:
    with pytest.raises(DataError) as error:
        pickles.load(data)
    assert error.value.stage == "read"
    assert "\n" not in error.value.reason and len(error.value.reason) < 300
    return error.value.reason


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_does_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    for wrap in (lambda x: x, lambda x: [1, x], lambda x: {"full_state": x}, lambda x: (x, x)):
        data = pickle.dumps(wrap(Runs(os.system, f"touch {marker}")), protocol)
        refused(data)
        assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()  # so it was a command, and plain pickle ran it


def _named(module: str, name: str, arguments: bytes = b")") -> bytes:
    return b"\x80\x03c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def _stack_named(module: str, name: str, arguments: bytes = b")") -> bytes:
    texts = b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in (module, name))
    return b"\x80\x04" + texts + b"\x93" + arguments + b"R."


NAMES = [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "list"),
    ("builtins", "bytearray"),
    ("__builtin__", "eval"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("copy_reg", "_reconstructor"),
    ("_codecs", "decode"),
    ("codecs", "encode"),
    ("collections", "OrderedDict"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy", "memmap"),
    ("numpy", "vectorize"),
    ("numpy", "ndarray.__class__"),
    ("numpy", "dtype.__call__"),
    ("numpy", ""),
    ("", "dtype"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.testing", "measure"),
    ("numpy.f2py", "compile"),
    ("numpy.lib.npyio", "load"),
    ("numpy.core.multiarray", "fromstring"),
    ("numpy.core.multiarray", "scalar.__self__"),
    ("numpy._core.multiarray", "_reconstruct.__globals__"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray_", "scalar"),
    ("widowx_envs.utils.utils", "AttrDict"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_no_other_name_is_known(module, name):
    for data in (_named(module, name), _stack_named(module, name)):
        assert "asks for" in refused(data)
    text = b"X" + struct.pack("<I", 4) + b"open"
    refused(_named(module, name, text + b"\x85"))


def test_numpys_own_names_call_nothing_else():
    """The few names that are known, called with what they are not called with in an array."""
    array, dtype = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
    again = b"cnumpy.core.multiarray\n_reconstruct\n"
    scalar = b"cnumpy.core.multiarray\nscalar\n"
    text = b"X\x02\x00\x00\x00"
    for body in (
        array + b")R",
        array + b"(K\x05\x85tR",
        array + b")\x81",
        dtype + b")R",
        dtype + b"(" + text + b"O8tR",
        dtype + b"(" + array + b"tR",
        dtype + dtype + b"\x85R}b",
        again + b")R",
        again + dtype + b"\x85R",
        again + array + b"R",
        again + array + b"\x85R}b",
        again + array + b"\x85R)b",
        again + array + b"\x85R(K\x01)" + dtype + b"\x89C\x00tb",
        scalar + array + b"C\x00\x86R",
        scalar + b"NC\x08" + bytes(8) + b"\x86R",
        scalar + b"X\x02\x00\x00\x00f8C\x08" + bytes(8) + b"\x86R",
        b"]}b",
        b"}}b",
        array + b"}b",
        b"K\x01)R",
        b"]K\x01\x86)R",
    ):
        refused(b"\x80\x03" + body + b".")


@pytest.mark.parametrize(
    "value",
    [
        np.array([{"a": 1}], object),
        np.array(["a"]),
        np.array([b"a"]),
        np.zeros(2, [("x", "f8"), ("y", "i4")]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, complex),
        np.zeros(2, np.longdouble),
        np.str_("a"),
        np.ma.masked_equal([1, 2], 1),
        np.dtype(("f8", (2,))),
        np.random.default_rng(0),
        np.float64,
        Path("/etc/passwd"),
        {1, 2},
        frozenset("a"),
        bytearray(b"a"),
        1j,
        Ellipsis,
        range(3),
        {1: 2},
        {(): 2},
        {b"a": 2},
        {None: 2},
        Stateful(),
        Slotted(a=1),
        len,
        pickle.PickleBuffer,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_other_objects_are_refused(value, protocol):
    refused(pickle.dumps([value], protocol))


def test_an_object_array_cannot_hide_behind_a_number_type():
    data = pickle.dumps(np.array([len], object), 3)
    refused(data.replace(b"X\x02\x00\x00\x00O8", b"X\x02\x00\x00\x00f8"))


def test_buffers_of_protocol_5_are_refused():
    array = np.arange(4.0)
    refused(pickle.dumps(array, 5))
    buffers: list = []
    refused(pickle.dumps(array, 5, buffer_callback=buffers.append))
    assert buffers
    for opcode in (b"\x96" + struct.pack("<Q", 1 << 62), b"\x97", b"\x98"):
        refused(b"\x80\x05" + opcode + b".")


def test_extension_codes_are_refused():
    copyreg.add_extension("os", "system", 0xF0)
    try:
        refused(b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def test_opcodes_that_make_objects_are_refused():
    for data in (
        b"(ios\nsystem\n.",
        b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x04cnumpy\nndarray\n)}\x92.",
        b"Pid\n.",
        b"\x80\x02NQ.",
        b"I01\n.",
        b"S'a'\n.",
        b"S'\\x'\n.",
        b"(dp0\n.",
    ):
        refused(data)


def traced(data: bytes) -> int:
    """The most memory in bytes that reading takes, whether it is refused or not."""
    tracemalloc.start()
    try:
        pickles.load(data)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_no_promise_is_believed():
    """Sizes that the file announces but does not hold."""
    head = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R"
    f8 = (
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shapes = [
        b"J\xff\xff\xff\x7f\x85",
        b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86",
        b"K\x00J\xff\xff\xff\x7f\x86",
        b"(K\x00" + b"J\x00\x00\x00\x01" * 7 + b"t",
        b"J\xff\xff\xff\xff\x85",
        b"(" + b"K\x01" * 64 + b"t",
        b"\x8a\x0a" + b"\xff" * 9 + b"\x7f\x85",
        b"N",
        b"G" + struct.pack(">d", 1.0) + b"\x85",
    ]
    arrays = [head + b"(K\x01" + shape + f8 + b"\x89C\x08" + bytes(8) + b"tb." for shape in shapes]
    empty = [head + b"(K\x01" + shape + f8 + b"\x89C\x00tb." for shape in shapes]
    whole = head + b"(K\x01K\x01\x85" + f8 + b"\x89C\x08" + bytes(8) + b"tb."
    assert pickles.load(whole).tolist() == [0.0]
    for data in (
        *arrays,
        *empty,
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
        b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"a.",
        b"\x80\x03B\xff\xff\xff\xffa.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x02\x8b\xff\xff\xff\x7fa.",
        b"\x80\x02\x8b\xff\xff\xff\xffa.",
    ):
        refused(data)
        assert traced(data) < 1 << 20
    # these are whole: a memo's place and a frame's length are only numbers
    for data in (b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x04\x95" + b"\xff" * 8 + b"]."):
        assert pickles.load(data) == []
        assert traced(data) < 1 << 20


def test_memory_and_depth_are_bounded_by_the_size():
    def deep(n: int) -> list[bytes]:
        return [
            b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b".",
            b"\x80\x02)" + b"\x85" * n + b".",
            b"\x80\x02" + b"(" * n + b"t" * n + b".",
            b"\x80\x02](" + b"}" * n + b"e.",
        ]

    for data in deep(pickles.MAX_OPCODES // 2 - 10):
        assert len(pickles.load(data)) > 0
    for data in deep(10_000):
        assert traced(data) < 10 << 20
    assert "opcodes" in refused(b"\x80\x02" + b"N0" * (pickles.MAX_OPCODES // 2) + b"N.")
    assert "bytes" in refused(b"\x80\x02C" + bytes(pickles.MAX_BYTES))


def test_keys_that_take_forever_are_refused():
    """A tuple of twice itself sixty times over hashes in 2**60 steps; some ints hash alike."""
    twice = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
    key = pickles.load(b"\x80\x02)q\x000" + twice + b"h\x3c.")
    assert key[0] is key[1] and len(key[0]) == 2
    assert "keys" in refused(b"\x80\x02)q\x000" + twice + b"}h\x3cNs.")
    same = b"".join(
        b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1000)
    )
    assert "keys" in refused(b"\x80\x02}(" + same + b"u.")


def test_every_beginning_of_a_pickle_is_refused():
    value = {"full_state": np.zeros((2, 7)), "x": np.float64(1), "t": [1, 2.5, "a", None, True]}
    for protocol in (3, 4):
        data = pickle.dumps(value, protocol)
        for n in range(len(data)):
            refused(data[:n])
        pickles.load(data)


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_data_or_refused(data):
    with contextlib.suppress(DataError):
        pickles.load(data)


SEEDS = [
    pickle.dumps({"full_state": np.zeros((2, 7)), "s": [np.float64(1), (1, "a", b"b")]}, protocol)
    for protocol in (3, 4)
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=800, deadline=None)
def test_a_damaged_pickle_is_data_or_refused(data, changes):
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        pickles.load(bytes(damaged))
    except DataError as e:
        assert "\n" not in e.reason and len(e.reason) < 300
