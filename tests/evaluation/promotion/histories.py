"""Histories of champions for tests."""

from evaluation.promotion.champions import ChampionVersion, History


def version(number: int = 1, **changes) -> ChampionVersion:
    plain = {
        "version": number,
        "run": f"run-{number}",
        "model": f"{number:x}" * 16,
        "md5": f"{number}.dir",
        "size": 10,
        "files": 2,
        "dataset": "squares",
        "data": "d" * 16,
        "evaluation": "e-e",
        "scores": {"zero_shot.in_domain.top1": 0.1 * number},
        "reason": f"reason <{number}>",
        "commit": "0" * 40,
        "when": f"2026-11-{number:02d}T21:00:00Z",
        "tag": f"champion@v{number}.0.0",
        "published": None,
    }
    return ChampionVersion(**{**plain, **changes})


def history(current: int | None, barred: tuple[str, ...] = (), versions: tuple[ChampionVersion, ...] = ()) -> History:
    return History("champion", current, barred, versions or (version(1), version(2)), ())
