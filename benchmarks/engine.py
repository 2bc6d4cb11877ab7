"""Our loader and training step against open_clip's own trainer, side by side in one run, and against the limits.

Run ``python benchmarks/engine.py`` in the repository root; it writes benchmarks/results/engine.json in about five
minutes. One thread each, rounds interleaved, medians; CPU seconds where the wall clock would also count what else the
machine does. The pictures are emoji scenes at 256 px, as JPEG; both trainers get the same shards, model, batch and
augmentation.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import open_clip
import open_clip_train.data as their_data
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from open_clip_train.train import train_one_epoch
from record import record

from assets.config import MachineConfig
from assets.index import index_row, rows_table, write_table
from assets.manifest import write_manifest
from assets.shards import ShardWriter
from assets.sources.base import open_source
from assets.sources.emoji_scenes.config import EmojiScenesConfig, SplitSizes
from training.config import BudgetConfig, OptimConfig, RecipeConfig
from training.data.loader import StepDataset, ViewPlan, batches
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.views import ViewsConfig
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.step import Stepper
from training.models.build import build_method, build_tokenizer
from training.models.towers_config import CustomTowers, TextTransformer, VisionTransformer

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SHARDS, PER_SHARD, SIDE, VIEW = 4, 400, 256, 224
BATCH = 64
ROUNDS, PER_ROUND = 5, 5
VIEWS = ViewsConfig(crop_area=(0.9, 1.0))  # open_clip_train's default augmentation
TOWERS = CustomTowers(
    kind="custom",
    embed_dim=256,
    image_size=VIEW,
    vision=VisionTransformer(kind="vit", layers=4, width=256, patch_size=16),
    text=TextTransformer(context_length=77, width=256, heads=4, layers=4),
)
MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)


def make_data(root: Path) -> tuple[Path, Path]:
    """Write shards of 256-px JPEGs in the layout of ingest and validate."""
    sizes = SplitSizes(
        train=SHARDS * PER_SHARD, test=0, test_style=0, test_pairs=0, zero_shot_per_class=0, zero_shot_style_per_class=0
    )
    source = open_source(
        EmojiScenesConfig(kind="emoji_scenes", seed=0, image_size=SIDE, sizes=sizes, num_concepts=400, num_classes=100)
    )
    raw, valid = root / "raw", root / "valid"
    (raw / "train").mkdir(parents=True)
    valid.mkdir()
    rows = []
    for shard in range(SHARDS):
        name = f"train/{shard:05d}.tar"
        with (raw / name).open("wb") as stream:
            writer = ShardWriter(stream)
            for sample in source.samples("train", shard * PER_SHARD, (shard + 1) * PER_SHARD):
                rows.append(index_row(sample, "train", name, writer.write(sample)))
            writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    write_manifest(raw, "raw", "bench", {}, {"samples": len(rows)}, {}, "bench")
    keys = [row["key"] for row in rows]
    pq.write_table(pa.table({"key": keys, "split": ["train"] * len(keys)}), valid / "accepted.parquet")
    write_manifest(valid, "valid", "bench", {}, {"accepted": len(keys)}, {}, "bench")
    return raw, valid


def rounds(runs: dict[str, Callable[[], int]], count: int = ROUNDS) -> dict[str, list[float]]:
    """Call each in turn, and return their samples per CPU second; the first round warms up and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(count + 1):
        for name, run in runs.items():
            begin = time.process_time()
            samples = run()
            if number:
                rates[name].append(samples / (time.process_time() - begin))
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Return the median, least and largest ratio of two runs' rates, round by round."""
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the median rate of each run."""
    return {name: statistics.median(values) for name, values in rates.items()}


def endless(make: Callable[[], Iterator[object]]) -> Iterator[object]:
    """Chain new iterators."""
    while True:
        yield from make()


def bench_loader(raw: Path, valid: Path) -> dict[str, object]:
    """Images per CPU second of one core: theirs, ours, and decoding plus resizing alone."""
    config = {"text_cfg": {"context_length": 77}}
    pairs = load_pairs(raw, valid)
    plan = ViewPlan({"image": VIEWS}, build_tokenizer(config), VIEW, 0)
    dataset = StepDataset(pairs, SampleOrder(len(pairs), BATCH, 0), plan)
    preprocess = open_clip.image_transform(VIEW, is_train=True)
    arguments = SimpleNamespace(
        train_data=str(raw / "train" / f"{{00000..{SHARDS - 1:05d}}}.tar"),
        dataset_resampled=False,
        train_num_samples=SHARDS * PER_SHARD,
        train_data_upsampling_factors=None,
        seed=0,
        batch_size=BATCH,
        workers=0,
        world_size=1,
    )
    # open_clip_train 3.3 stumbles over the entry without a file that webdataset 1.0 puts at the end of each tar
    expand = their_data.tar_file_expander
    their_data.tar_file_expander = lambda *args, **kwargs: (it for it in expand(*args, **kwargs) if "fname" in it)
    theirs = their_data.get_wds_dataset(arguments, preprocess, True, tokenizer=open_clip.get_tokenizer("RN50"))
    # its shuffle buffer fills before the first sample comes out, which is not what is measured here
    their_batches = endless(lambda: iter(theirs.dataloader))
    our_batches = batches(dataset, 0, 10**6, 0, CPU)
    files = [
        (raw / pairs.shards[pairs.shard[i]]).read_bytes()[pairs.offset[i] : pairs.offset[i] + pairs.size[i]]
        for i in range(BATCH)
    ]

    def limit() -> int:
        for _ in range(PER_ROUND):
            for data in files:
                pixels = torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)[None]
                torch.nn.functional.interpolate(pixels[..., 4:248, 4:248], (VIEW, VIEW), mode="bicubic", antialias=True)
        return PER_ROUND * BATCH

    def take(source: Iterator[object]) -> int:
        for _ in range(PER_ROUND):
            next(source)
        return PER_ROUND * BATCH

    rates = rounds(
        {
            "open_clip_train": functools.partial(take, their_batches),
            "clipfoundry": functools.partial(take, our_batches),
            "decode_and_resize": limit,
        }
    )
    return {
        "images_per_cpu_second": medians(rates),
        "over_open_clip_train": ratio(rates, "clipfoundry", "open_clip_train"),
        "share_of_the_limit": ratio(rates, "clipfoundry", "decode_and_resize"),
        "mean_kib_per_image": float(pairs.size.mean() / 1024),
    }


STEP_BATCH, STEPS_PER_ROUND = 16, 2


def recipe() -> RecipeConfig:
    """The step benchmark's recipe: CLIP with AdamW as open_clip_train has it by default."""
    return RecipeConfig(
        method={"kind": "clip"},
        towers=TOWERS,
        views=VIEWS,
        budget=BudgetConfig(samples_seen=STEP_BATCH * 10**6, batch_size=STEP_BATCH),
        optim=OptimConfig(
            lr=5e-4, weight_decay=0.2, beta1=0.9, beta2=0.98, eps=1e-6, warmup_steps=100, gradient_clip=1.0
        ),
        precision="fp32",
        log_every=10,
        checkpoint_every=10**6,
    )


def their_steps(text: torch.Tensor, image: torch.Tensor) -> Callable[[], int]:
    """Return a function that runs some steps of open_clip_train's own loop."""
    torch.manual_seed(0)
    method, _ = build_method(recipe(), 0)
    model = method.model
    model.output_dict = True
    named = list(model.named_parameters())
    # as open_clip_train/main.py groups and builds it by default
    groups = [
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    arguments = SimpleNamespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=True,
        horovod=False,
        grad_clip_norm=1.0,
        log_every_n_steps=10,
        rank=0,
        local_rank=0,
        log_local=False,
        world_size=1,
        batch_size=STEP_BATCH,
        wandb=False,
    )
    loader = SimpleNamespace(num_batches=STEPS_PER_ROUND, num_samples=STEP_BATCH * STEPS_PER_ROUND)
    normalised = (image.float() / 255 - method.image_mean) / method.image_std

    class Batches(SimpleNamespace):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return iter([(normalised, text)] * STEPS_PER_ROUND)

    data = SimpleNamespace(dataloader=Batches(**vars(loader)), set_epoch=lambda _epoch: None)

    def run() -> int:
        train_one_epoch(
            model, {"train": data}, open_clip.ClipLoss(), 0, optimizer, None, lambda _step: None, None, arguments
        )
        return STEP_BATCH * STEPS_PER_ROUND

    return run


def our_steps(text: torch.Tensor, image: torch.Tensor, machine: MachineConfig = MACHINE) -> Callable[[], int]:
    """Return a function that runs some steps of ours."""
    stepper = Stepper(build_method(recipe(), 0)[0], recipe(), machine, World(0, 1, CPU), 0)
    sample = torch.arange(STEP_BATCH)
    batch = {"image": image, "text": text, "sample_id": sample, "seed": sample, "text_cut": sample < 0}
    clock, done = TrainClock({}, CPU), iter(range(10**6))

    def run() -> int:
        for _ in range(STEPS_PER_ROUND):
            stepper.step(batch, next(done), clock)
        return STEP_BATCH * STEPS_PER_ROUND

    return run


def bench_step(raw: Path, valid: Path) -> dict[str, object]:
    """Samples per CPU second of a training step on a batch in memory, normalising the pixels included in ours only."""
    pairs = load_pairs(raw, valid)
    plan = ViewPlan({"image": VIEWS}, build_tokenizer({"text_cfg": {"context_length": 77}}), VIEW, 0, trim=True)
    batch = StepDataset(pairs, SampleOrder(len(pairs), STEP_BATCH, 0), plan)[0]
    whole = torch.zeros(STEP_BATCH, 77, dtype=torch.int64)
    whole[:, : batch["text"].shape[1]] = batch["text"]
    rates = rounds(
        {
            "open_clip_train": their_steps(whole, batch["image"]),
            "clipfoundry": our_steps(batch["text"], batch["image"]),
            "clipfoundry_all_77_tokens": our_steps(whole, batch["image"]),
            "clipfoundry_compiled": our_steps(
                batch["text"], batch["image"], MACHINE.model_copy(update={"compile": "always"})
            ),
        }
    )
    return {
        "samples_per_cpu_second": medians(rates),
        "over_open_clip_train": ratio(rates, "clipfoundry", "open_clip_train"),
        "over_open_clip_train_all_77_tokens": ratio(rates, "clipfoundry_all_77_tokens", "open_clip_train"),
        "compiled_over_not": ratio(rates, "clipfoundry_compiled", "clipfoundry"),
        "text_tokens": batch["text"].shape[1],
    }


def loss_memory(rows: int) -> float:
    """Return the MiB that the loss of ``rows`` of 8192 pairs adds, forward and backward; in a process of its own."""
    code = f"""
import pathlib, torch
from training.losses.info_nce import info_nce_loss
features = torch.nn.functional.normalize(torch.randn(8192, 256), dim=-1).requires_grad_()
# not getrusage: its peak is inherited from the parent
status = pathlib.Path("/proc/self/status")
peak = lambda: int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
info_nce_loss(features[:64], features[:64], torch.tensor(10.0)).backward()
before = peak()
info_nce_loss(features, features, torch.tensor(10.0), slice(0, {rows})).backward()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return round(float(done.stdout), 1)


def bench_memory(raw: Path, valid: Path) -> dict[str, object]:
    """Return the memory of the loader and its worker while 100,000 samples go through, in MiB of their own."""
    pairs = load_pairs(raw, valid)
    plan = ViewPlan({"image": VIEWS}, build_tokenizer({"text_cfg": {"context_length": 77}}), 64, 0)
    dataset = StepDataset(pairs, SampleOrder(len(pairs), 250, 0), plan)
    me = psutil.Process()
    held: list[float] = []
    for step, _ in enumerate(batches(dataset, 0, 400, 1, CPU), 1):
        if step % 40 == 0:
            held.append(sum(it.memory_full_info().uss for it in (me, *me.children())) / 2**20)
    return {"every_10000_samples": [round(mib, 1) for mib in held], "growth_after_10000": round(held[-1] - held[0], 1)}


def main() -> None:
    """Run all parts."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        raw, valid = make_data(Path(folder))
        result = {"loader": bench_loader(raw, valid), "step": bench_step(raw, valid)}
        result["memory"] = bench_memory(raw, valid)
    result["loss_mib_of_8192_pairs"] = {f"{rows}_rows": loss_memory(rows) for rows in (8192, 1024)}
    record("engine", result)


if __name__ == "__main__":
    main()
