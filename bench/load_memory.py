"""How much memory `load_pretrained` takes at its peak, as a share of the weight file (Linux).

    python bench/load_memory.py [--layers 12 --channels 768 --vocab 50257]

Writes random weights in each format and loads each in a fresh process: the peak of the resident memory while loading,
minus what was resident before. Pages of a mapped file count as resident. Prints Markdown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import tyro
from safetensors.torch import load_file, save_file

from minippo.model import GPT, GPTConfig
from minippo.weights import load_pretrained, save_pretrained, set_file_format


@dataclass(frozen=True)
class Options:
    """Sizes of the model, by default those of GPT-2."""

    layers: int = 12
    channels: int = 768
    vocab: int = 50257
    measure: Path | None = None
    """Only load this folder and print the figures as JSON: what the fresh process is asked."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the loaded weights."""


def resident(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes of this process that are in memory now, or were at the peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def measure(folder: Path, dtype: torch.dtype) -> None:
    """Load once, in a process that has done nothing else, and print what it took."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, started = resident("VmRSS"), time.perf_counter()
    gpt = load_pretrained(folder, dtype)
    seconds, peak = time.perf_counter() - started, resident("VmHWM")
    loaded = sum(p.nbytes for p in gpt.parameters())
    print(json.dumps({"peak": peak - before, "loaded": loaded, "seconds": seconds}))


def in_format(folder: Path, form: str) -> int:
    """Rewrite the folder's model.safetensors as `form`; returns the bytes of the weight files."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "model.safetensors":
        save_file(tensors, folder / form)
    elif form == "pytorch_model.bin":
        torch.save(tensors, folder / form)
    else:
        names, weight_map = list(tensors), {}
        for number in range(4):
            file = f"model-{number + 1:05d}-of-00004.safetensors"
            save_file({name: tensors[name] for name in names[number::4]}, folder / file)
            weight_map |= dict.fromkeys(names[number::4], file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "config.json")


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    if options.measure is not None:
        measure(options.measure, getattr(torch, options.dtype))
        return
    print("| family | files | file | loaded as | weights | peak | peak / larger of both | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    forms = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    for family, form, stored, dtype in product(("gpt2", "opt"), forms, ("float32", "float16"), ("float32", "bfloat16")):
        sizes = GPTConfig(options.vocab, 1024, options.layers, options.channels // 64, options.channels)
        with tempfile.TemporaryDirectory() as name:
            gpt = GPT(sizes).to(getattr(torch, stored))
            set_file_format(gpt, family=family)
            save_pretrained(gpt, name)
            size = in_format(Path(name), form)
            command = [sys.executable, __file__, "--measure", name, "--dtype", dtype]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        share = found["peak"] / max(size, found["loaded"])
        figures = (
            f"{found['loaded'] / 1e6:.0f} MB | {found['peak'] / 1e6:.0f} MB | {share:.3f} | {found['seconds']:.2f}"
        )
        print(f"| {family} | {form} | {size / 1e6:.0f} MB {stored} | {dtype} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
