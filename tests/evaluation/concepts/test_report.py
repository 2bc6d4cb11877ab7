import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from assets.concepts.config import ConceptsConfig
from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest
from assets.section import parse
from evaluation.concepts.report import Folders, report_concepts
from tests.evaluation.concepts.counted import (
    COUNTS,
    DATA,
    ENTRY,
    NAMES,
    SLOPE,
    START,
    class_rows,
    params_for,
    planted,
    run_entry,
    write_concepts,
    write_plan,
    write_report,
)

CONFIG = parse(ConceptsConfig, ENTRY, "test")
PAIRS = sum(COUNTS) + len(COUNTS)


def folders_of(root: Path) -> Folders:
    return Folders(root / "concepts", root / "reduced", root / "reports", root / "out", root / "plot.tsv")


def make(root: Path) -> None:
    report_concepts("squares", CONFIG, folders_of(root), root / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds on all pairs, and one run on every other pair that is worse and follows no law."""
    root = tmp_path_factory.mktemp("made")
    write_concepts(root / "concepts")
    for seed in (0, 1):
        rows = class_rows(planted(seed), "in_domain") + class_rows(0.5 * planted(seed), "held_out_style")
        further = [
            {"suite": "in_domain", "direction": way, "k": k, "concept": name, "num": 12, "recall": float(score)}
            for name, score in zip(NAMES, planted(7, slope=0.1), strict=True)
            for way, k, score in (("text_to_image", 10, score), ("image_to_text", 1, 0.0))
        ]
        write_report(root / f"reports/clip-s{seed}", rows, further)
    flat = np.clip(np.random.default_rng(3).normal(0.1, 0.05, len(COUNTS)), 0, 1)
    write_report(root / "reports/half", class_rows(flat, "in_domain"))
    plan = [
        {"key": f"{place:06d}", "kept": place % 2 == 0, "caption": None, "caption_of": None} for place in range(PAIRS)
    ]
    write_plan(root / "reduced/half", plan)
    runs = {"clip-s0": run_entry(0), "clip-s1": run_entry(1), "half": run_entry(0, "half")}
    params_for(root / "params.yaml", {**runs, "elsewhere": run_entry(0, dataset="other")})
    make(root)
    return root


def read(root: Path, name: str):
    return json.loads((root / "out" / name).read_text(encoding="utf-8"))


def test_the_planted_law_is_recovered(made):
    fits = read(made, "fits.json")["clip"]["zero_shot.in_domain"]
    level = fits["concept_level"]
    assert level["n"] == sum(count > 0 for count in COUNTS)
    assert (level["slope"], level["intercept"]) == pytest.approx((SLOPE, START), abs=0.02)
    assert level["low"]["slope"] < SLOPE < level["high"]["slope"]
    assert level["p"] < 1e-10
    assert fits["binned_pearson"]["r"] > 0.97
    assert fits["spearman"]["n"] == len(COUNTS)
    half_as_good = read(made, "fits.json")["clip"]["zero_shot.held_out_style"]["concept_level"]["slope"]
    assert half_as_good == pytest.approx(SLOPE / 2, abs=0.01)


def test_retrieval_is_set_against_frequency_with_its_own_bins(made):
    fit = read(made, "fits.json")["clip"]["retrieval.in_domain.text_to_image_r10"]
    assert fit["concept_level"]["slope"] == pytest.approx(0.1, abs=0.02)
    assert fit["binned_pearson"]["n"] <= 5


def test_counts_are_of_the_pairs_that_the_policy_keeps(made):
    found = {name: read(made, f"{name}.json") for name in ("fits", "fits_text")}
    # every concept has a pair whose caption names it, but half of those are gone, with the pairs of the rarest
    assert found["fits"]["clip + half"]["zero_shot.in_domain"]["concept_level"]["n"] < 84
    assert found["fits_text"]["clip"]["zero_shot.in_domain"]["concept_level"]["n"] == len(COUNTS)


def test_few_numbers_tell_a_law_from_none(made):
    found = read(made, "metrics.json")
    law, none = found["clip"]["zero_shot.in_domain"], found["clip + half"]["zero_shot.in_domain"]
    assert law["slope"] == pytest.approx(SLOPE, abs=0.02)
    assert law["tail_gap"] > 0.3
    assert abs(none["slope"]) < 0.03
    assert "retrieval.in_domain.text_to_image_r10" not in found["clip"]


def test_points_of_the_best_group_are_there_for_plots(made):
    head, *lines = (made / "plot.tsv").read_text().splitlines()
    assert head == "concept\tcount\taccuracy"
    counts = [int(line.split("\t")[1]) for line in lines]
    assert counts == sorted(COUNTS)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_other_file(made):
    page = (made / "out/index.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(set(tags.ids)) == len(tags.ids)
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert 'name="viewport"' in page
    for words in ("means of bins", "never shown", "tail suite", "No number for", "pairs with both", "Thing 89"):
        assert words in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).split()


def test_the_page_says_how_much_data_and_where_it_cannot(made):
    page = (made / "out/index.html").read_text(encoding="utf-8")
    sentences = re.findall(r"(?:No number for [^<]*|\d+ % takes about [^<]*)", page)
    assert any(sentence.startswith("50 % takes about") for sentence in sentences)
    assert any("not told apart from zero" in sentence or "falls" in sentence for sentence in sentences)


def test_the_folder_is_finished_and_the_same_every_time(made, tmp_path):
    assert verify_manifest(made / "out") == []
    manifest = read_manifest(made / "out", "concept_report")
    assert set(manifest["inputs"]) == {"concepts", "policy half", "run clip-s0", "run clip-s1", "run half"}
    again = Folders(made / "concepts", made / "reduced", made / "reports", tmp_path / "out", tmp_path / "plot.tsv")
    report_concepts("squares", CONFIG, again, made / "params.yaml")
    assert read_manifest(tmp_path / "out")["files"] == manifest["files"]


def small(root: Path, rows: list[dict], runs: dict | None = None, **concepts) -> Path:
    write_concepts(root / "concepts", **concepts)
    write_report(root / "reports/a", rows)
    params_for(root / "params.yaml", runs or {"a": run_entry(0)})
    return root


def test_without_pictures_captions_are_counted(tmp_path):
    small(tmp_path, class_rows(planted(0), "in_domain"), with_images=False)
    make(tmp_path)
    assert not (tmp_path / "out/fits_text.json").exists()
    fit = read(tmp_path, "fits.json")["clip"]["zero_shot.in_domain"]["concept_level"]
    assert fit["n"] == len(COUNTS)  # one more caption each
    assert "Nobody looked at the pictures" in (tmp_path / "out/index.html").read_text()


def test_wrong_input_says_what_to_do(tmp_path):
    small(tmp_path, class_rows(planted(0), "in_domain"), {"b": run_entry(0, dataset="other")})
    with pytest.raises(ConfigError, match=r"none is of the data set squares.*add a run"):
        make(tmp_path)
    params_for(tmp_path / "params.yaml", {"a": run_entry(0), "b": run_entry(0, "gone")})
    with pytest.raises(DataError, match=r"1 of 2 groups(?s:.*)clip \+ gone \(runs b\).*reduced/gone"):
        make(tmp_path)
    params_for(tmp_path / "params.yaml", {"a": run_entry(0)})
    write_report(tmp_path / "reports/c", class_rows(planted(0), "in_domain"), inputs={**DATA, "valid": "old"})
    params_for(tmp_path / "params.yaml", {"c": run_entry(0)})
    with pytest.raises(DataError, match="another data version"):
        make(tmp_path)
    (tmp_path / "reports/a/per_class.parquet").unlink()
    params_for(tmp_path / "params.yaml", {"a": run_entry(0)})
    with pytest.raises(DataError, match=r"add zero_shot to evaluation\.evaluators"):
        make(tmp_path)
    assert not (tmp_path / "out").exists()


def test_concepts_that_are_no_classes_are_refused(tmp_path):
    names = [f"other {place}" for place in range(len(NAMES))]
    with pytest.raises(DataError, match=r"none of the 90 concepts is a class.*list: classes"):
        make(small(tmp_path, class_rows(planted(0), "in_domain"), names=names))
