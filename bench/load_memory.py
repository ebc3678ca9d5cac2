"""Peak memory of `load_pretrained`, relative to the weight file or the loaded weights, whichever is larger (Linux).

    python bench/load_memory.py [--layers 12 --channels 768 --vocab 50257]

Writes random weights in each format and loads each in a new process. Measures the peak of resident memory while
loading, minus that before; pages of a mapped file count as resident. Prints a Markdown table.
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
from safetensors.torch import load_file, save_file

from minippo.model import GPT, GPTConfig
from minippo.runs import command_line
from minippo.weights import load_pretrained, save_pretrained, set_file_format


@dataclass(frozen=True)
class Options:
    """Sizes of the model, by default those of GPT-2."""

    layers: int = 12
    channels: int = 768
    vocab: int = 50257
    measure: Path | None = None
    """Load only this folder and print the measurements as JSON (used for the new processes)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the loaded weights."""


def resident(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process in bytes, now or at its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def measure(folder: Path, dtype: torch.dtype) -> None:
    """Load the folder and print peak memory, size and time as JSON."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, started = resident("VmRSS"), time.perf_counter()
    gpt = load_pretrained(folder, dtype)
    seconds, peak = time.perf_counter() - started, resident("VmHWM")
    loaded = sum(p.nbytes for p in gpt.parameters())
    print(json.dumps({"peak": peak - before, "loaded": loaded, "seconds": seconds}))


def in_format(folder: Path, form: str) -> int:
    """Rewrite the folder's model.safetensors as `form`. Returns the size of the weight files in bytes."""
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
    options = command_line(Options, __doc__)
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
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        loaded, peak, share = result["loaded"], result["peak"], result["peak"] / max(size, result["loaded"])
        cells = f"{loaded / 1e6:.0f} MB | {peak / 1e6:.0f} MB | {share:.3f} | {result['seconds']:.2f}"
        print(f"| {family} | {form} | {size / 1e6:.0f} MB {stored} | {dtype} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
