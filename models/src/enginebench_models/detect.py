"""What kind of model a path holds: by its contents first, by names only where contents say nothing.

LLaMA is what is run here. GPT is recognised so that it can be refused by name.
"""

from pathlib import Path

from enginebench_models.errors import ModelError, ModelNotFound, ModelTypeMismatch, NotAModel, UnsupportedModel
from enginebench_models.files import map_file, read_json
from enginebench_models.gguf_header import MAGIC, read_header

GPT_FILES = ("vocab.bpe", "encoder.json", "pytorch_model")
LLAMA_FILES = (".gguf", "tokenizer.model", "consolidated", "model.safetensors")
TYPES = ("llama", "gpt")


def detect_model_type(path: Path) -> str:
    """ "llama", "gpt", or the architecture that the file names itself. Raises ModelNotFound, NotAModel."""
    if not path.exists():
        raise ModelNotFound(
            f"There is no file or directory {path}. Check the path, or name a catalogue model.", "no-such-path"
        )
    found = _from_contents(path) or _from_names(path)
    if found is None:
        raise NotAModel(f"{path} holds no model that can be recognised; give a GGUF file or a safetensors directory.")
    return found


def check_model_type(path: Path, expected: str) -> None:
    """Raises ModelTypeMismatch naming both types."""
    detected = detect_model_type(path)
    if detected != expected:
        raise ModelTypeMismatch(expected, detected, path)


def refuse_other_types(path: Path) -> None:
    """Raises UnsupportedModel for a model that is recognised as another than LLaMA."""
    detected = _from_contents(path) or _from_names(path)
    if detected not in (None, "llama"):
        known = {"gpt": "GPT"}.get(detected, detected)
        raise UnsupportedModel(
            f"{path} holds a {known} model: it is recognised, but only LLaMA models are run here. Give the path of a "
            "LLaMA model, or one of the names that `enginebench models` lists.",
            "architecture",
        )


def _from_contents(path: Path) -> str | None:
    for file in [path] if path.is_file() else sorted(path.glob("*.gguf")):
        if file.is_file() and (buffer := map_file(file))[:4] == MAGIC:
            return _family(str(read_header(buffer, file).metadata.get("general.architecture", "unknown")))
    config = (path if path.is_dir() else path.parent) / "config.json"
    if config.is_file() and (path.is_dir() or path.suffix == ".safetensors"):
        try:
            return _family(str(read_json(config)["model_type"]))
        except (KeyError, ModelError):
            return None
    return None


def _family(architecture: str) -> str:
    return "gpt" if architecture.startswith("gpt") else architecture


def _from_names(path: Path) -> str | None:
    names = [path.name.lower(), *(p.name.lower() for p in (path.iterdir() if path.is_dir() else []))]
    if any(part in name for name in names for part in GPT_FILES) or "gpt" in path.name.lower():
        return "gpt"
    if any(part in name for name in names for part in ("llama", *LLAMA_FILES)):
        return "llama"
    return None
