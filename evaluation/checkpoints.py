"""Which model embeds a data set's pairs: the export of a run, a folder like it, or weights that open_clip knows.

Nothing is downloaded: weights of open_clip must be in its cache (``~/.cache/clip``) or in that of the Hugging Face hub.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from safetensors.torch import save_file

from assets.atomic import write_json
from assets.config import MachineConfig
from assets.errors import ConfigError, DataError, message
from assets.manifest import MANIFEST, file_digest, read_manifest, value_digest, version_of
from assets.progress import Stage
from assets.section import unknown
from evaluation.encoder import Encoder, load_encoder, make_encoder
from evaluation.open_clip_export import OpenClipImages, OpenClipTexts
from training.checkpoint_config import FolderCheckpoint, ModelChoice, OpenClipCheckpoint
from training.models.export_files import CONFIG_FILE, OWN_CONFIG_FILE, WEIGHTS_FILE

_URL_CACHE = Path(".cache") / "clip"
Load = Callable[[MachineConfig, Stage, int], Encoder]


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that is there, not yet loaded.

    Attributes:
        version: Names its content.
        facts: What it is, for the manifest.
        load: Gets the section ``machine``, the stage, and this process's number on its machine.
        write: Puts the model as an export, config and weights, into an empty folder.
    """

    version: str
    facts: dict[str, Any]
    load: Load
    write: Callable[[Path], None]


def find_model(config: ModelChoice, exported: Path | None) -> EmbeddingModel:
    """Find the model of an entry.

    Args:
        config: The entry.
        exported: Folder of the run's model; None where a checkpoint embeds.

    Raises:
        ConfigError: open_clip does not know the checkpoint, or it is not in the cache.
        DataError: The folder holds no finished export.
    """
    checkpoint = config.checkpoint
    if isinstance(checkpoint, OpenClipCheckpoint):
        return _named(checkpoint, config.batch_size)
    if isinstance(checkpoint, FolderCheckpoint):
        version = _folder_version(checkpoint.path)
        facts: dict[str, Any] = {"kind": "folder", "version": version}
        return _exported(version, facts, checkpoint.path, config.batch_size)
    assert exported is not None
    name: str = read_manifest(exported, "model")["name"]
    version = version_of(exported)
    facts = {"kind": "run", "name": name, "version": version}
    return _exported(version, facts, exported, config.batch_size)


def _exported(version: str, facts: dict[str, Any], folder: Path, batch_size: int) -> EmbeddingModel:
    def load(machine: MachineConfig, stage: Stage, local_rank: int) -> Encoder:
        return load_encoder(folder, machine, batch_size, stage, local_rank)

    def write(target: Path) -> None:
        for path in (_config_of(folder), folder / WEIGHTS_FILE):
            if path is None or not path.is_file():
                raise DataError(message(f"{folder} lacks a file of an export", fix="make it anew"))
            shutil.copyfile(path, target / path.name)

    return EmbeddingModel(version, facts, load, write)


def _config_of(folder: Path) -> Path | None:
    """Return the config of an export, or None where there is none."""
    return next((folder / name for name in (CONFIG_FILE, OWN_CONFIG_FILE) if (folder / name).is_file()), None)


def _folder_version(folder: Path) -> str:
    """Name the content of an export, which has no manifest where somebody else made it."""
    if (folder / MANIFEST).is_file():
        return version_of(folder)
    config = _config_of(folder)
    if config is None or not (folder / WEIGHTS_FILE).is_file():
        wanted = f"{WEIGHTS_FILE} with {CONFIG_FILE} or {OWN_CONFIG_FILE}"
        found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise DataError(message(f"{folder} holds no model", found, wanted, "mend checkpoint.path"))
    return value_digest([file_digest(config), file_digest(folder / WEIGHTS_FILE)])


def _named(checkpoint: OpenClipCheckpoint, batch_size: int) -> EmbeddingModel:
    """Find weights by their name in open_clip."""
    name, tag = checkpoint.model, checkpoint.pretrained
    if name not in open_clip.list_models():
        raise ConfigError(f"checkpoint.model: {unknown(name, open_clip.list_models(), 'architecture of open_clip')}")
    known: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise ConfigError(f"checkpoint.pretrained: {unknown(tag, tags, f'weights of {name}')}")
    weights = _cached(known)
    if weights is None or not _tokenizer_is_cached(name):
        what = f"the weights {tag} of open_clip's {name} are not in the cache of this machine"
        fetch = f"python -c \"import open_clip; m = '{name}'; open_clip.create_model(m, '{tag}'); "
        fetch += 'open_clip.get_tokenizer(m)"'
        raise ConfigError(message(what, fix=f"with a network, run once: {fetch}; nothing is downloaded by a stage"))
    digest = file_digest(weights)[:16]

    def sides(device: torch.device, at_once: int) -> tuple[OpenClipImages, OpenClipTexts]:
        model, preprocess = _create(name, known, weights, device)
        texts = OpenClipTexts(model, open_clip.get_tokenizer(name), device, batch_size, at_once)
        return OpenClipImages(model, preprocess, device), texts

    def load(machine: MachineConfig, stage: Stage, local_rank: int) -> Encoder:
        return make_encoder(sides, machine, local_rank)

    def write(target: Path) -> None:
        _write_named(target, name, known, _create(name, known, weights, torch.device("cpu"))[0])

    facts: dict[str, Any] = {"kind": "open_clip", "model": name, "pretrained": tag, "version": digest}
    return EmbeddingModel(digest, facts, load, write)


def _create(name: str, known: dict[str, Any], weights: Path, device: torch.device) -> tuple[Any, Any]:
    """Load weights of open_clip from a file; return the model in evaluation mode, and its preprocessing."""
    shown: dict[str, Any] = {
        f"image_{part}": known.get(part) for part in ("mean", "std", "interpolation", "resize_mode")
    }
    quick: bool = known.get("quick_gelu", False)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            *(name, str(weights)), device=device, pretrained_text=False, force_quick_gelu=quick, **shown
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        what = f"{weights} does not load as {name} ({text})"
        raise DataError(message(what, fix="remove it and fetch it again")) from error
    return model.eval(), preprocess


def _write_named(target: Path, name: str, known: dict[str, Any], model: Any) -> None:
    """Write a model of open_clip so that ``local-dir:TARGET`` loads it: what its name implied stands in the config."""
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    if known.get("quick_gelu", False):
        config["quick_gelu"] = True
    shown: dict[str, Any] = model.visual.preprocess_cfg
    parts = {part: shown[part] for part in ("mean", "std", "interpolation", "resize_mode") if part in shown}
    # copies, because a file cannot hold one tensor under two names
    tensors = {key: tensor.detach().clone().contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, target / WEIGHTS_FILE)
    write_json(target / CONFIG_FILE, {"model_cfg": config, "preprocess_cfg": parts})


def _cached(known: dict[str, Any]) -> Path | None:
    """Return the local file of pretrained weights, or None."""
    repository, _, filename = str(known.get("hf_hub", "")).rpartition("/")
    if repository:
        safe = f"{filename.rpartition('.')[0]}.safetensors"
        for candidate in (safe, filename) if filename else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
            if isinstance(found := try_to_load_from_cache(repository, candidate), str):
                return Path(found)
    local = Path.home() / _URL_CACHE / str(known.get("url", "")).rpartition("/")[2]
    return local if known.get("url") and local.is_file() else None


def _tokenizer_is_cached(name: str) -> bool:
    """Say whether the tokenizer of an architecture is here; that of most comes with open_clip."""
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    repository = config.get("text_cfg", {}).get("hf_tokenizer_name")
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")
    return not repository or any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
