import json
import shutil
from pathlib import Path

from pipelines.leaderboard import print_leaderboard, table

PROFILE = Path(__file__).resolve().parents[2] / "profiles/smoke.yaml"

ROWS = [
    {
        "run": "siglip-s0",
        "recipe": "siglip",
        "dataset": "emoji",
        "policy": "none",
        "features": "none",
        "seed": 0,
        "metrics": {"zero_shot.in_domain.top1": 0.421, "retrieval.in_domain.text_to_image_r1": 0.3},
        "intervals": {"zero_shot.in_domain.top1": [0.40, 0.45]},
        "cost": {"samples_seen": 72000},
        "versions": {"model": "a" * 16},
    },
    {
        "run": "clip-s0",
        "recipe": "clip",
        "dataset": "emoji",
        "policy": "none",
        "features": "none",
        "seed": 0,
        "metrics": {"zero_shot.in_domain.top1": 0.4},
        "intervals": {},
        "cost": {"samples_seen": 500},
        "versions": {"model": "b" * 16},
    },
]
TIMES = {
    "siglip-s0": {"model": "a" * 16, "train_seconds": 3671.2},
    "clip-s0": {"model": "b" * 16, "train_seconds": 59.6},
}
COLUMNS = ["zero_shot.in_domain.top1", "retrieval.in_domain.text_to_image_r1"]


def test_the_table_shows_scores_intervals_costs_and_only_facts_that_differ():
    lines = table(ROWS, COLUMNS, TIMES)
    assert lines == [
        "                     zero_shot         retrieval",
        "                     in_domain         in_domain    train   pairs",
        "run        recipe         top1  text_to_image_r1     time    seen",
        "-----------------------------------------------------------------",
        "siglip-s0  siglip  42.1 +- 2.5              30.0  1:01:11  72,000",
        "clip-s0    clip           40.0                 -     1:00     500",
    ]


def test_times_of_runs_trained_elsewhere_or_of_another_model_are_dashes(tmp_path, capsys):
    board, params = tmp_path / "leaderboard.json", tmp_path / "params.yaml"
    board.write_text(json.dumps(ROWS))
    (tmp_path / "times.json").write_text(json.dumps({"clip-s0": TIMES["clip-s0"], "siglip-s0": TIMES["clip-s0"]}))
    shutil.copy(PROFILE, params)
    print_leaderboard(board, params)
    shown = {line.split()[0]: line.split()[-2] for line in capsys.readouterr().out.splitlines()[4:6]}
    assert shown == {"siglip-s0": "-", "clip-s0": "1:00"}
    (tmp_path / "times.json").unlink()
    print_leaderboard(board, params)
    assert {line.split()[-2] for line in capsys.readouterr().out.splitlines()[4:6]} == {"-"}
