from pipelines.leaderboard import table

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
        "cost": {"train_seconds": 3671.2, "samples_seen": 72000},
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
        "cost": {"train_seconds": 59.6, "samples_seen": 500},
    },
]


def test_the_table_shows_scores_intervals_costs_and_only_facts_that_differ():
    lines = table(ROWS, ["zero_shot.in_domain.top1", "retrieval.in_domain.text_to_image_r1"])
    assert lines == [
        "                     zero_shot         retrieval",
        "                     in_domain         in_domain    train   pairs",
        "run        recipe         top1  text_to_image_r1     time    seen",
        "-----------------------------------------------------------------",
        "siglip-s0  siglip  42.1 +- 2.5              30.0  1:01:11  72,000",
        "clip-s0    clip           40.0                 -     1:00     500",
    ]
