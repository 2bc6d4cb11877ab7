"""Loads a frozen language model from local files, and turns a GGUF file into safetensors the first time.

Reading SmolLM2 from GGUF takes half a minute, from safetensors a second or two. The converted model waits in a cache
folder named after the content of the GGUF file; like any folder of ours it is finished when its manifest is there.
"""

import importlib.util
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.atomic import publish_folder
from assets.errors import ConfigError, DataError, message
from assets.language.model_source import MODEL_FILES, HubModel, ModelSource
from assets.manifest import MANIFEST, file_digest, read_manifest, value_digest, write_manifest

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_KIND = "language_model"
_CONVERSION_VERSION = 1
_GGUF_PACKAGES = ("gguf", "accelerate")
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor flags, of x86 and ARM, of instructions that multiply bfloat16."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run and will not be trained.

    Attributes:
        name: For people.
        digest: 16 hex digits naming weights and tokenizer.
        model: A causal language model of transformers, in evaluation mode and without gradients.
        tokenizer: Its tokenizer; padding is done without it.
    """

    name: str
    digest: str
    model: Any
    tokenizer: Any

    @property
    def facts(self) -> dict[str, str]:
        """What a manifest says of the model."""
        return _facts(self.name, self.digest, self.model.dtype)


def _facts(name: str, digest: str, dtype: torch.dtype) -> dict[str, str]:
    return {
        "model": name,
        "model_digest": digest,
        "dtype": str(dtype).removeprefix("torch."),
        "transformers": transformers.__version__,
    }


def known_facts(source: ModelSource, device: torch.device, dtype: DtypeName = "auto") -> dict[str, str]:
    """Return the :attr:`LoadedModel.facts` that a model will have, without loading it; its files are read for that.

    Args:
        source: Where it is.
        device: Where it would compute.
        dtype: In which type, as for :func:`load_language_model`.

    Raises:
        ConfigError: The model is not there.
        DataError: Its files are not those of a model.
    """
    return _facts(source.label, _digest(source.locate(), source), _resolved(dtype, device))


def load_language_model(
    source: ModelSource, cache: Path, device: torch.device, dtype: DtypeName = "auto"
) -> LoadedModel:
    """Load a model; the network is not used.

    Args:
        source: Where it is.
        cache: Folder for converted GGUF files, e.g. ``work/language_models``.
        device: Where to compute.
        dtype: In which type; ``auto`` is bfloat16 where the device multiplies it fast, and float32 elsewhere.

    Returns:
        The model.

    Raises:
        ConfigError: The model or a package needed to read it is not there.
        DataError: Its files are not those of a causal language model, or damaged.
    """
    place = source.locate()
    digest = _digest(place, source)
    folder = _converted(place, digest, cache, source.remedy) if place.is_file() else place
    wanted = _resolved(dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=wanted
        )
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own
        fix = f"remove {folder} and run again" if place.is_file() else source.remedy
        raise DataError(
            message(f"{folder} does not load as a causal language model ({_first_line(error)})", fix=fix)
        ) from error
    module: Any = model
    return LoadedModel(source.label, digest, module.requires_grad_(False).eval().to(device), tokenizer)


def _resolved(dtype: DtypeName, device: torch.device) -> torch.dtype:
    return fast_dtype(device) if dtype == "auto" else getattr(torch, dtype)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which a device is fastest without overflow: bfloat16 or float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        about = Path("/proc/cpuinfo")
        words = about.read_text(encoding="utf-8").split() if about.is_file() else []
        fast = not _FAST_BFLOAT16.isdisjoint(words)
    return torch.bfloat16 if fast else torch.float32


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _digest(place: Path, source: ModelSource) -> str:
    """Name the content of a model's file, or of its folder with the commit it came from where there is one."""
    return file_digest(place)[:16] if place.is_file() else _folder_digest(place, source)


def _folder_digest(folder: Path, source: ModelSource) -> str:
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    names = {path.name for path in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        found = ", ".join(sorted(names)) or "no file of a model"
        raise DataError(message(f"{folder} is not a model", found, "config.json and *.safetensors", source.remedy))
    commit = source.label if isinstance(source, HubModel) else None
    return value_digest({"commit": commit, "files": {path.name: file_digest(path) for path in files}})


def _converted(gguf: Path, digest: str, cache: Path, remedy: str) -> Path:
    """Return the folder with the model of a GGUF file, made when it is not there."""
    folder = cache / value_digest({"gguf": digest, "conversion": _CONVERSION_VERSION})
    if (folder / MANIFEST).is_file():
        listed = read_manifest(folder, _KIND)["files"]
        sizes = {name: (folder / name).stat().st_size for name in listed if (folder / name).is_file()}
        if sizes == {name: facts["bytes"] for name, facts in listed.items()}:
            return folder
    missing = [name for name in _GGUF_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        fix = f'run "pip install {" ".join(missing)}"'
        raise ConfigError(message(f"reading {gguf.name} needs {' and '.join(missing)}, not installed", fix=fix))
    cache.mkdir(parents=True, exist_ok=True)
    # a name of its own: the processes of one run may all come here at once, and each brings the same files
    partial = cache / f"{folder.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        _convert(gguf, partial, remedy)
        write_manifest(partial, _KIND, gguf.stem, {"conversion": _CONVERSION_VERSION}, {}, {"gguf": digest}, "")
        publish_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path, remedy: str) -> None:
    """Write weights, in float32 since that holds every quantised value, and tokenizer of a GGUF file."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # gguf and transformers each raise their own
        what = f"{gguf} does not load as a causal language model ({_first_line(error)})"
        raise DataError(message(what, fix=remedy)) from error
    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    # transformers refuses to save a model that it counts as quantised, so the weights move to one that it does not
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
