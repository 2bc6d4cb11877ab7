"""LexVLA with its language model in training: adapters on a toy Llama, from real features to an export that encodes."""

import copy
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from assets.config import MachineConfig
from assets.errors import ConfigError, DataError
from assets.features.config import parse_features
from assets.features.run import Folders, make_features
from assets.progress import Stage
from assets.text_rows import TextRows
from evaluation.encoder import load_encoder
from tests.assets.language.toy_words import save_words_folder
from tests.training.frozen_text import lexvla, towers
from tests.training.torchrun import torchrun_command
from training.config import load_recipe
from training.data.pairs import load_pairs
from training.engine.accumulate import total_loss
from training.engine.flops import FlopsProbe
from training.engine.step import Stepper
from training.methods.base import Method
from training.models.build import build_method
from training.models.frozen_export import load_export
from training.pretrain import Paths, pretrain

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
LEXICAL = {"kind": "lexical", "width": 12}
PROMPT = {"example": "", "before": "In ", "after": " is", "word_start": True}
WEIGHTS = "open_clip_model.safetensors"


class KilledError(Exception):
    """Ends a run."""


def entry_of(model: Path, **changes) -> dict:
    return {
        "kind": "lexical",
        "dataset": "toy",
        "model": {"kind": "folder", "path": str(model)},
        "vocabulary": {"common": 12, "corpus": False, "min_letters": 1},
        "prompt": PROMPT,
        "compute": "float32",
        "max_caption_tokens": 16,
        **changes,
    }


def make(toy_data: tuple[Path, Path], root: Path, **changes) -> Path:
    """Make a language model and features with it."""
    if not (root / "llama").exists():
        save_words_folder(root / "llama")
    folders = Folders(*toy_data, root / "features", root / "work")
    make_features("toy", parse_features(entry_of(root / "llama", **changes), "features.toy"), folders, MACHINE)
    return root


@pytest.fixture(scope="module")
def made(toy_data, tmp_path_factory) -> Path:
    return make(toy_data, tmp_path_factory.mktemp("lora"))


def recipe_of(center: bool = True, lora: dict | None = None, **changes) -> dict:
    text = {"kind": "frozen", "center": center, "lora": {"rank": 4, "alpha": 8, **(lora or {})}}
    return lexvla(towers={**towers(), "text": text, "head": LEXICAL}, **changes)


def facts_of(made: Path, center: bool = True):
    return TextRows(made / "features", center=center).facts


def method_of(params, made: Path, recipe: dict) -> Method:
    file = params(**{f"recipes.clip.{name}": value for name, value in recipe.items()})
    parsed = load_recipe(file, "clip")
    return build_method(parsed, 0, facts_of(made, parsed.frozen_text.center))[0]


def batch_of(toy_data, method: Method, count: int = 8) -> dict[str, torch.Tensor]:
    captions = load_pairs(*toy_data).captions.to_pylist()[:count]
    text, cut = method.lora.tokens.encode(captions)
    random = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, 32, 32), generator=random).to(torch.uint8)
    return {"image": image, "text": text, "text_cut": cut, "seed": torch.arange(count)}


@pytest.mark.parametrize("center", [False, True])
def test_with_adapters_at_their_start_states_are_the_cached_rows(params, toy_data, made, center):
    method = method_of(params, made, recipe_of(center))
    pairs, rows = load_pairs(*toy_data), TextRows(made / "features", center=center)
    cached = torch.from_numpy(rows.rows(rows.join(pairs.keys))[:, 0])
    text, cut = method.lora.tokens.encode(pairs.captions.to_pylist())
    states = method.lora(text)
    assert (states - cached).abs().max() < 1e-3
    assert cut.any() and not cut.all()  # both are met: captions that are cut, and padded ones
    with torch.no_grad():
        method.lora.weights[next(name for name in method.lora.weights if "lora_B" in name)].fill_(0.1)
    assert (method.lora(text) - cached).abs().max() > 1e-2


def test_batch_mates_and_padding_change_nothing(params, made):
    lora = method_of(params, made, recipe_of()).lora
    captions = ["a red apple", "", "two dogs on a bridge", "red"]
    text, _ = lora.tokens.encode(captions)
    together = lora(text)
    for caption, state in zip(captions, together, strict=True):
        own = lora.tokens.encode([caption])[0]
        length = int((own > 0).sum())
        assert torch.allclose(lora(own[:, :length])[0], state, atol=1e-5)


def test_only_adapters_and_the_image_side_learn_and_the_loss_falls(params, toy_data, made):
    method = method_of(params, made, recipe_of())
    base = method.lora._held[0]
    frozen = {n: p.detach().clone() for n, p in base.named_parameters() if "lora_" not in n}
    batch = batch_of(toy_data, method)
    groups = [g for g in method.param_groups(0.1) if g.params]
    found = {name: (g.weight_decay, g.lr_scale) for g in groups for name, _ in g.params}
    adapters = {name for name in found if ".lora." in name}
    assert len(adapters) == 2 * 7 * 3  # both matrices of seven layers in three blocks
    assert {found[name] for name in adapters} == {(0.0, 1.0)}
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for step in range(4):
        loss = total_loss(method(batch, step))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in method.named_parameters():
            assert parameter.grad is not None, name
        moved = [p.grad.abs().max() for n, p in method.lora.weights.items() if "lora_B" in n]
        assert min(moved) > 0
        optimizer.step()
    assert losses[-1] < losses[0]
    assert method.lora.weights.keys() and not any("held" in name for name in method.state_dict())
    assert all(p.grad is None for n, p in base.named_parameters() if "lora_" not in n)
    assert all(torch.equal(p, frozen[n]) for n, p in base.named_parameters() if n in frozen)


def test_a_rate_of_zero_leaves_the_adapters(params, made):
    recipe = recipe_of()
    recipe["method"] = {**recipe["method"], "text_lr": 0}
    assert not any(p.requires_grad for p in method_of(params, made, recipe).lora.parameters())


@pytest.mark.parametrize("method", ["clip", "flame"])
def test_other_methods_train_adapters_too(params, toy_data, made, method):
    kinds = {"clip": {"kind": "clip"}, "flame": {"kind": "flame", "loss": "softmax", "rows_per_image": 1}}
    built = method_of(params, made, recipe_of() | {"method": kinds[method]})
    batch = batch_of(toy_data, built)
    total_loss(built(batch, 0)).backward()
    assert all(p.grad is not None for p in built.lora.parameters())
    texts = built.encode_captions(batch)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(8), atol=1e-5)


def test_copies_and_moves_keep_sharing_the_adapters(params, toy_data, made):
    method = method_of(params, made, recipe_of())
    text = batch_of(toy_data, method)["text"]
    other = copy.deepcopy(method).double()
    before = method.lora(text)
    assert torch.allclose(other.lora(text), before.double(), atol=1e-5)
    with torch.no_grad():
        for parameter in other.lora.parameters():
            parameter.add_(0.1)
    assert torch.equal(method.lora(text), before)
    changed = other.lora(text)
    assert (changed - before).abs().max() > 1e-2
    changed.sum().backward()
    assert all(parameter.grad is not None for parameter in other.lora.parameters())


def test_operations_of_the_language_model_are_counted(params, toy_data, made):
    method = method_of(params, made, recipe_of())
    batch = batch_of(toy_data, method)
    with_model = FlopsProbe(method).count(batch)
    plain = method_of(params, made, recipe_of() | {"towers": {**towers(center=True), "head": LEXICAL}})
    rows = normalize(torch.randn(8, 1, 32), dim=-1)
    without = FlopsProbe(plain).count({**batch, "text_rows": rows})
    weights = sum(p.numel() for n, p in method.lora._held[0].named_parameters() if "proj" in n and "lora_" not in n)
    tokens = batch["text"].shape[1]
    # forward, and backward to the inputs alone; the adapters and attention come on top
    assert with_model - without > 0.9 * 4 * weights * tokens
    assert with_model - without < 3 * 4 * weights * tokens


def test_the_rest_of_encode_compiles_around_the_language_model(params, toy_data, made):
    method = method_of(params, made, recipe_of())
    batch = batch_of(toy_data, method)
    wanted = method.encode(batch)["text_features"]
    torch._dynamo.reset()
    found = torch.compile(method.encode, backend="eager")(batch)["text_features"]
    assert torch.allclose(found, wanted, atol=1e-5)
    found.square().sum().backward()
    assert all(p.grad is not None for p in method.lora.parameters())


def test_dropout_is_for_training_alone(params, toy_data, made):
    method = method_of(params, made, recipe_of(lora={"dropout": 0.5}))
    text = batch_of(toy_data, method)["text"]
    with torch.no_grad():
        for parameter in method.lora.parameters():
            parameter.add_(0.1)
    assert not torch.equal(method.lora(text), method.lora(text))
    method.eval()
    assert torch.equal(method.lora(text), method.lora(text))
    method.train()
    assert not torch.equal(method.lora(text), method.lora(text))


def started(params, toy_data, made: Path, out: Path, recipe: dict | None = None):
    budget = {"samples_seen": 128, "batch_size": 16}
    recipe = {**(recipe or recipe_of()), "budget": budget, "holdout": {"pairs": 8, "every": 4}}
    changes = {f"recipes.clip.{name}": value for name, value in recipe.items()}
    file = params(**changes, **{"features.toy": entry_of(made / "llama"), "runs.toy-s0.features": "toy"})
    return file, Paths(*toy_data, out / "model", out / "run", features=made / "features")


@pytest.fixture(scope="module")
def own(toy_data, tmp_path_factory) -> Path:
    """Features whose language model may be spoilt."""
    return make(toy_data, tmp_path_factory.mktemp("own"))


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bytes_and_its_export_encodes(params, toy_data, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, paths = started(params, toy_data, own, tmp_path / "whole")
    pretrain("toy-s0", file, paths)
    step = Stepper.step

    def dies(self, batch, number, *rest):
        if number == 4:
            raise KilledError
        assert "text_rows" not in batch and batch["text"].shape[1] <= 24
        return step(self, batch, number, *rest)

    monkeypatch.setattr(Stepper, "step", dies)
    file, again = started(params, toy_data, own, tmp_path / "again")
    with pytest.raises(KilledError):
        pretrain("toy-s0", file, again)
    monkeypatch.setattr(Stepper, "step", step)
    pretrain("toy-s0", file, again)
    for name in (WEIGHTS, "clipfoundry_config.json", "manifest.json"):
        assert (paths.out / name).read_bytes() == (again.out / name).read_bytes()
    facts = json.loads((paths.out / "manifest.json").read_text())
    assert "features" in facts["inputs"]
    export = load_export(paths.out)
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in export.model.state_dict().items())
    captions = ["a red disc on green", "a dog", "a red disc on green", "a lorry on a bridge with two red trucks on it"]
    with torch.no_grad():
        wanted = export.model.encode_prompts(export.model.lora.tokens.encode(captions)[0]).numpy()
    encoder = load_encoder(paths.out, MACHINE, 8, Stage("test"))
    np.testing.assert_allclose(encoder.text.encode(captions), wanted, atol=1e-5)
    np.testing.assert_allclose(encoder.text.encode_slots(captions)[:, 0], wanted, atol=1e-5)
    assert encoder.text.count_cut(captions) == 1
    assert not (tmp_path / "work/text_queries").exists()
    refuse_other_models(own / "llama", paths.out)


@pytest.mark.slow
def test_two_processes_equal_one(params, toy_data, made, tmp_path, monkeypatch):
    file, paths = started(params, toy_data, made, tmp_path)
    command = torchrun_command(["--standalone", "--nproc-per-node", "2"], file, toy_data, tmp_path / "two")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command += ["--features", str(made / "features")]
    subprocess.run(command, check=True, timeout=300, env=environment, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    pretrain("toy-s0", file, paths)
    one, two = (load_file(folder / WEIGHTS) for folder in (paths.out, tmp_path / "two/model"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        # Adam divides tiny gradients by their own size, which turns their rounding into a share of the rate, 1e-3
        assert (value - two[name]).abs().max() < 1e-4, name


def refuse_other_models(model: Path, export: Path) -> None:
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**about, "rope_theta": 5000.0}))
    with pytest.raises(DataError, match=r"not the language model that made the features \(model_digest differs\)"):
        load_export(export)
    shutil.rmtree(model)
    with pytest.raises(ConfigError, match=r"needs its language model.*does not exist"):
        load_export(export)


@pytest.mark.parametrize(
    ("towers_", "told"),
    [
        ({"head": {"kind": "tokens"}}, "text.lora is for a head over words"),
        ({"text": {"kind": "frozen", "center": True, "lora": {"targets": []}}}, "targets is empty"),
        (
            {"text": {"kind": "frozen", "center": True, "lora": {"targets": ["q_proj", "quality"]}}},
            "names no linear layer.*'quality', wanted some of down_proj, .*v_proj, or all",
        ),
    ],
)
def test_refused(params, made, towers_, told):
    recipe = recipe_of()
    with pytest.raises(ConfigError, match=told):
        method_of(params, made, recipe | {"towers": {**recipe["towers"], **towers_}})


def test_named_layers_alone_get_adapters(params, made):
    lora = method_of(params, made, recipe_of(lora={"targets": ["q_proj", "v_proj"]})).lora
    assert len(lora.weights) == 2 * 2 * 3
    assert all("q_proj" in name or "v_proj" in name for name in lora.weights)


def test_features_of_several_captions_and_of_no_language_model_are_refused(params, made):
    facts = facts_of(made)
    file = params(**{f"recipes.clip.{name}": value for name, value in recipe_of().items()})
    two = replace(facts, slots=(*facts.slots, ("long", "words")), chosen=(0, 1), slot_means=facts.slot_means[[0, 0]])
    with pytest.raises(ConfigError, match=r"reads one caption of each pair.*'caption/words, long/words'"):
        build_method(load_recipe(file, "clip"), 0, two)
    sentences = {"entry": {"kind": "sentences", "dataset": "toy", "encoder": "minilm"}, "encoder": {"model": "x"}}
    with pytest.raises(ConfigError, match="wants features of a language model that names words"):
        build_method(load_recipe(file, "clip"), 0, replace(facts, features=sentences))
