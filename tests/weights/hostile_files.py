"""Weight files that a stranger might send, each refused by `load_pretrained`.

`FILES` is a table of names and functions that change a folder with a valid model.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch._utils import _rebuild_tensor_v2

EMBEDDING = "transformer.wte.weight"


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stored:
    """Pickled as a reference to a record of the file."""

    def __init__(self, numel=464, key="0", kind=torch.FloatStorage, device="cpu"):
        self.reference = "storage", kind, key, device, numel


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Stored) else None


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def tensor(size: Any = (29, 16), stride: Any = (16, 1), offset: Any = 0, storage: Any = None) -> Call:
    """A tensor as PyTorch pickles it, with whatever is claimed."""
    return Call(_rebuild_tensor_v2, storage or Stored(), offset, size, stride, False, OrderedDict())


def write_zip(path: Path, table: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> None:
    """A file of `torch.save` with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {
            "data.pkl": table,
            "version": b"3\n",
            "byteorder": b"little",
            "data/0": bytes(1856),
        }.items():
            file.writestr(f"archive/{name}", content)
        for name, content in records.items():
            file.writestr(name, content)


def as_bin(change):
    """`change(tensors)` returns what is saved instead of the tensors."""

    def write(folder):
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(change(tensors), folder / "pytorch_model.bin")

    return write


def embedding(value):
    """A file with another value for the embedding."""
    return as_bin(lambda tensors: tensors | {EMBEDDING: value(tensors[EMBEDDING])})


def as_pickle(table, **options):
    """A file with this pickle (bytes, or a value to pickle)."""

    def write(folder):
        (folder / "model.safetensors").unlink()
        content = table if isinstance(table, bytes) else pickled(table)
        write_zip(folder / "pytorch_model.bin", content, **options)

    return write


def nested_list(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def itself():
    value = {}
    value["self"] = value
    return value


BIN = {
    "sparse": embedding(lambda x: x.to_sparse()),
    "compressed rows": embedding(lambda x: x.to_sparse_csr()),
    "quantised": embedding(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    "complex": embedding(lambda x: x.to(torch.complex64)),
    "meta": embedding(lambda x: x.to("meta")),
    "float8": embedding(lambda x: x.to(torch.float8_e4m3fn)),
    "integers": embedding(lambda x: x.long()),
    "unsigned": embedding(lambda x: x.to(torch.uint16)),
    "booleans": embedding(lambda x: x.bool()),
    "nested": embedding(lambda x: torch.nested.nested_tensor([x[0], x[1, :3]])),
    "NaN": embedding(lambda x: x * float("nan")),
    "too large for float32": embedding(lambda x: x.double() * 1e300),
    "10^12 times one element": embedding(lambda x: torch.zeros(1).expand(10**12)),
    "one element for every weight": embedding(lambda x: torch.zeros(1, 1).expand(29, 16)),
    "a string": embedding(lambda x: "weights"),
    "a scalar": embedding(lambda x: torch.tensor(1.0)),
    "a list": as_bin(lambda tensors: list(tensors.values())),
    "a tensor": as_bin(lambda tensors: tensors[EMBEDDING]),
    "a number": as_bin(lambda tensors: 7),
    "nothing": as_bin(lambda tensors: {}),
    "wrapped": as_bin(lambda tensors: {"state_dict": tensors}),
    "numbers for names": as_bin(lambda tensors: dict(enumerate(tensors.values()))),
    "counter": as_bin(lambda tensors: Counter(tensors.keys())),
    "code": as_pickle({EMBEDDING: Call(print, "this has run")}),
    "code by an old operation": as_pickle(b"\x80\x02(X\x0c\x00\x00\x00this has runi__builtin__\nprint\n."),
    "code of a known module": as_pickle({EMBEDDING: Call(torch.load, "other.bin")}),
    "10^12 bytes": as_pickle({EMBEDDING: Call(bytearray, 10**12)}),
    "a tensor larger than its storage": as_pickle({EMBEDDING: tensor((10**12,), (1,))}),
    "a storage larger than the file": as_pickle({EMBEDDING: tensor((10**9, 16), storage=Stored(16 * 10**9))}),
    "a storage as large as claimed": as_pickle({EMBEDDING: tensor(storage=Stored(2**62))}),
    "a negative size": as_pickle({EMBEDDING: tensor((-29, 16))}),
    "a negative stride": as_pickle({EMBEDDING: tensor(stride=(-16, 1))}),
    "a negative offset": as_pickle({EMBEDDING: tensor(offset=-4)}),
    "an offset beyond the end": as_pickle({EMBEDDING: tensor(offset=10**9)}),
    "a size of 10^30": as_pickle({EMBEDDING: tensor((10**30, 16))}),
    "sizes whose product overflows": as_pickle({EMBEDDING: tensor((2**32, 2**32), (0, 0))}),
    "words for sizes": as_pickle({EMBEDDING: tensor("29")}),
    "more strides than sizes": as_pickle({EMBEDDING: tensor((464,), (16, 1))}),
    "no arguments": as_pickle({EMBEDDING: Call(_rebuild_tensor_v2)}),
    "a missing record": as_pickle({EMBEDDING: tensor(storage=Stored(key="7"))}),
    "a record elsewhere": as_pickle({EMBEDDING: tensor(storage=Stored(key="../../../../etc/passwd"))}),
    "a device that does not exist": as_pickle({EMBEDDING: tensor(storage=Stored(device="cuda:9"))}),
    "itself": as_pickle(itself()),
    "nested lists": as_pickle(nested_list(30_000)),
    "a pickle that does not end": as_pickle(b"\x80\x02}"),
    "a pickle that pops too much": as_pickle(b"\x80\x020000."),
    "an unknown operation": as_pickle(b"\x80\x02\xfe."),
    "an unknown memo": as_pickle(b"\x80\x02h\x07."),
    "a long integer": as_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f\x01."),
    "a string of 2 GB": as_pickle(b"\x80\x02X\xff\xff\xff\x7fa."),
    "an empty pickle": as_pickle(b""),
    "a long pickle": as_pickle(b"\x80\x02" + b"N0" * 2**20 + b"N."),
    "a bomb": as_pickle(bytes(50_000_000), compression=zipfile.ZIP_DEFLATED),
    "compressed": as_pickle({EMBEDDING: tensor()}, compression=zipfile.ZIP_DEFLATED),
    "two tables": as_pickle({EMBEDDING: tensor()}, **{"other/data.pkl": b"N."}),
}


def safetensors(**changes):
    """Tensors replaced by others; None removes one."""

    def write(folder):
        tensors = load_file(folder / "model.safetensors") | changes
        tensors = {name: value for name, value in tensors.items() if value is not None}
        save_file(tensors, folder / "model.safetensors")

    return write


def header(change, data=bytes(1856)):
    """A file with only an embedding, whose header (an object, text or bytes) `change` returns."""

    def write(folder):
        entry = {"dtype": "F32", "shape": [29, 16], "data_offsets": [0, 1856]}
        content = change(entry)
        content = content if isinstance(content, str | bytes) else json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + data)

    return write


def long_header(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"a": "b" * 2**21})


def raw(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


WTE = torch.zeros(29, 16)
SAFETENSORS = {
    "a missing tensor": safetensors(**{EMBEDDING: None}),
    "another tensor": safetensors(**{"transformer.h.2.ln_1.weight": torch.zeros(16)}),
    "another shape": safetensors(**{EMBEDDING: torch.zeros(29, 17)}),
    "no rows": safetensors(**{EMBEDDING: torch.zeros(0, 16)}),
    "one dimension": safetensors(**{EMBEDDING: torch.zeros(464)}),
    "a transposed layer": safetensors(**{"transformer.h.0.mlp.c_fc.weight": torch.zeros(64, 16)}),
    "NaN": safetensors(**{EMBEDDING: WTE * float("nan")}),
    "infinity": safetensors(**{EMBEDDING: WTE + float("inf")}),
    "too large for float32": safetensors(**{EMBEDDING: torch.full((29, 16), -1e300, dtype=torch.float64)}),
    "integers": safetensors(**{EMBEDDING: WTE.long()}),
    "booleans": safetensors(**{EMBEDDING: WTE.bool()}),
    "float8": safetensors(**{EMBEDDING: WTE.to(torch.float8_e5m2)}),
    "complex": safetensors(**{EMBEDDING: WTE.to(torch.complex64)}),
    "two models": safetensors(**{"reference.transformer.wte.weight": WTE}),
    "a tensor with two names": safetensors(**{"module.transformer.wpe.weight": torch.zeros(12, 16)}),
    "a name of 10^5 characters": safetensors(**{"transformer.h." + "\x1b[2J\n" * 20_000: WTE}),
    "another output embedding": safetensors(**{"lm_head.weight": WTE}),
    "an output embedding of integers": safetensors(**{"lm_head.weight": WTE.long()}),
    "10^12 rows": header(lambda entry: {EMBEDDING: entry | {"shape": [10**12, 16]}}),
    "negative rows": header(lambda entry: {EMBEDDING: entry | {"shape": [-29, 16]}}),
    "an offset beyond the end": header(lambda entry: {EMBEDDING: entry | {"data_offsets": [0, 2**62]}}),
    "swapped offsets": header(lambda entry: {EMBEDDING: entry | {"data_offsets": [1856, 0]}}),
    "overlapping tensors": header(lambda entry: {EMBEDDING: entry, "b": entry}),
    "a hole": header(lambda entry: {EMBEDDING: entry | {"data_offsets": [8, 1864]}}, bytes(1864)),
    "an unknown dtype": header(lambda entry: {EMBEDDING: entry | {"dtype": "F7"}}),
    "a dtype of half a byte": header(lambda entry: {EMBEDDING: entry | {"dtype": "F4", "shape": [232, 16]}}),
    "no dtype": header(lambda entry: {EMBEDDING: {"shape": [29, 16]}}),
    "a list": header(lambda entry: [entry]),
    "nested lists": header(lambda entry: "[" * 100_000),
    "no JSON": header(lambda entry: "secret=1"),
    "no UTF-8": header(lambda entry: b'{"\xff": 1}'),
    "no tensors": header(lambda entry: {}, b""),
    "a header of 2 MB": long_header,
    "a header of 2^63 bytes": raw(struct.pack("<Q", 2**63) + b"{}"),
    "a header of 10^8 bytes": raw(struct.pack("<Q", 10**8) + b"{}"),
    "eight bytes": raw(bytes(8)),
    "three bytes": raw(b"abc"),
}


def index(change, family="safetensors"):
    """The model in one shard; `change(folder, weight_map)` returns what the index says instead."""

    def write(folder):
        shard = folder / "model-1.safetensors"
        (folder / "model.safetensors").rename(shard)
        weight_map = dict.fromkeys(load_file(shard), shard.name)
        name = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[family]
        (folder / name).write_text(json.dumps({"weight_map": change(folder, weight_map)}))

    return write


def all_in(file, family="safetensors"):
    """An index that looks for every tensor in this file."""
    return index(lambda folder, weight_map: dict.fromkeys(weight_map, file), family)


def outside(how):
    """An index of a file outside the folder, which exists."""

    def change(folder, weight_map):
        elsewhere = folder.parent / "elsewhere.safetensors"
        (folder / "model-1.safetensors").rename(elsewhere)
        return dict.fromkeys(weight_map, how(folder, elsewhere))

    return index(change)


def linked(folder, elsewhere):
    (folder / "linked.safetensors").symlink_to(elsewhere)
    return "linked.safetensors"


def folder_for_shard(folder, weight_map):
    (folder / "a.safetensors").mkdir()
    return dict.fromkeys(weight_map, "a.safetensors")


def another_name(folder, weight_map):
    return {name.replace("wpe", "wpe2"): file for name, file in weight_map.items()}


INDEX = {
    "itself": all_in("model.safetensors.index.json"),
    "itself, of .bin files": all_in("pytorch_model.bin.index.json", "bin"),
    "config.json": all_in("config.json"),
    "a file of another kind": all_in("model-1.safetensors", "bin"),
    "the parent folder": outside(lambda folder, elsewhere: "../elsewhere.safetensors"),
    "a detour": outside(lambda folder, elsewhere: f"./../{folder.name}/../elsewhere.safetensors"),
    "an absolute path": outside(lambda folder, elsewhere: str(elsewhere)),
    "a link out of the folder": outside(linked),
    "a device": all_in("/dev/zero.safetensors"),
    "a folder": index(folder_for_shard),
    "a missing file": all_in("model-2.safetensors"),
    "a name of 300 characters": all_in("a" * 300 + ".safetensors"),
    "a name with a null byte": all_in("\0.safetensors"),
    "a name with control characters": all_in("\x1b[2J\n.safetensors"),
    "a dot": all_in("."),
    "no name": all_in(""),
    "a number": all_in(1),
    "no tensors": index(lambda folder, weight_map: {}),
    "a list": index(lambda folder, weight_map: list(weight_map)),
    "a tensor that no file has": index(another_name),
}


def config(**changes):
    def write(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return write


def config_text(text):
    return lambda folder: (folder / "config.json").write_text(text)


def large_config(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(10**9)


SIZES = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
ABSURD = (10**12, 10**9, 10**400, 10**6 + 7, -1, 0, 2.0, 1e30, float("inf"), "2", True, None, [2], {})
CONFIG = {f"{key} {repr(value)[:20]}": config(**{key: value}) for key in SIZES for value in ABSURD} | {
    "all sizes at their limits": config(vocab_size=10**7, n_positions=10**7, n_layer=1000, n_head=1, n_embd=10**5),
    "1,000 wide blocks": config(n_layer=1000, n_embd=16384),
    "an id of 10^12": config(never_sampled=[10**12]),
    "an end of text": config(eos_token_id="</s>"),
    "another activation": config(activation_function="x" * 10**6),
    "another type": config(model_type="\x1b[2J" * 10**5),
    "a key twice": config_text('{"model_type": "gpt2", "model_type": "opt"}'),
    "nested lists": config_text("[" * 10**5),
    "a number of 5,000 digits": config_text('{"model_type": ' + "1" * 5000 + "}"),
    "a gigabyte": large_config,
    "a list": config_text("[]"),
    "no JSON": config_text("secret=1"),
}

FILES = {
    f"{kind}: {name}": write
    for kind, cases in (("bin", BIN), ("safetensors", SAFETENSORS), ("index", INDEX), ("config", CONFIG))
    for name, write in cases.items()
}
