"""A run whose shards stay in a real object store and are streamed through a cache, to the same weights."""

import shutil

import pytest

from assets.errors import ConfigError
from tests.training.data.test_pairs import use_urls
from training.pretrain import Paths, pretrain


@pytest.fixture
def streamed(toy_data, object_store, tmp_path, monkeypatch):
    """The toy data with its shards in the store, in a folder with the store's keys."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "streamed"
    shutil.copytree(toy_data[0], raw)
    for shard in sorted((raw / "train").iterdir()):
        object_store.put(f"streamed/train/{shard.name}", shard.read_bytes())
    shutil.rmtree(raw / "train")
    use_urls(raw / "index.parquet", "s3://clipfoundry/streamed/")
    shutil.copytree(object_store.keys, tmp_path / ".store", ignore=lambda _, names: set(names) - {"credentials.json"})
    return raw


def trained(raw, valid, file, folder):
    pretrain("toy-s0", file, Paths(raw, valid, folder / "model", folder / "log"))
    return (folder / "model/open_clip_model.safetensors").read_bytes()


@pytest.mark.slow
def test_streamed_shards_give_the_weights_of_local_ones(toy_data, streamed, object_store, params, tmp_path):
    store = object_store.config.model_dump(mode="json")
    file = params(**{"store": store, "recipes.clip.shuffle_window": 1})
    local = trained(*toy_data, file, tmp_path / "local")
    assert trained(streamed, toy_data[1], file, tmp_path / "far") == local
    copies = [path for path in (tmp_path / "work/shards").rglob("*.tar") if ".locks" not in path.parts]
    assert sorted(copy.read_bytes() for copy in copies) == sorted(
        shard.read_bytes() for shard in (toy_data[0] / "train").iterdir()
    )


def test_a_cache_too_small_for_the_window_is_refused(toy_data, streamed, object_store, params, tmp_path):
    store = object_store.config.model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"do not fit the cache .*shard_cache_gib.* raise it, or set recipes"):
        trained(streamed, toy_data[1], params(**{"store": store, "machine.shard_cache_gib": 1e-6}), tmp_path)
    assert not (tmp_path / "work" / "pretrain").exists()
