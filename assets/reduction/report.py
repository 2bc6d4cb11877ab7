"""The page of a policy: what a policy did to its pool, on one page that needs nothing beside it."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.index import read_index
from assets.progress import Stage
from assets.reduction.config import MEASURES, PolicyConfig
from assets.reduction.pool import SPLIT
from assets.reduction.report_concepts import Concepts, concept_facts, count_concepts, extremes
from assets.reduction.report_pictures import COLUMNS, figures, pick
from assets.reduction.report_plots import LEGEND, score_svg, sizes_svg
from assets.reduction.report_truth import judge, read_truth
from assets.shard_cache import ShardCache
from assets.validation.html_table import html_table

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Reduction $name</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 1rem 0 .3rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; vertical-align: top;
border-bottom: 1px solid #e4e4e7; overflow-wrap: anywhere } td.n, th.n { text-align: right; white-space: nowrap }
.panels { display: flex; flex-wrap: wrap; gap: .8rem 1rem; margin: .3rem 0 } figure { margin: 0; width: 132px }
figure img, .none { border: 1px solid #ddd } .none { width: 96px; height: 96px; color: #85858c }
figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere } small { display: block; color: #85858c }
.warn { color: #8a5300; font-weight: 600 }
</style></head><body>
<h1>Policy <code>$name</code>: $kept of $pool pairs ($share)</h1>
<p>Pool: accepted training pairs of <code>$dataset</code>. Every decision is in <code>plan.parquet</code>;
<code>python -m assets explain --policy $name --key KEY</code> explains one.</p>
<h2>Steps</h2>$steps
<h2>Captions</h2>$captions
<h2>What is known to be false or copied</h2>$truth
<h2>Scores</h2>$scores
<h2>Clusters</h2>$clusters
<h2>Concepts before and after</h2>$concepts
<h2>Pictures</h2>$pictures
</body></html>
""")


@dataclass(frozen=True, slots=True)
class Shown:
    """What the report is about.

    Attributes:
        config: The policy.
        plan: plan.parquet, n rows.
        captions: Captions of the pool, [n].
        names: Names of the data set's classes.
        summary: What is known without a look at the data.
    """

    config: PolicyConfig
    plan: pa.Table
    captions: pa.StringArray
    names: list[str]
    summary: dict[str, Any]

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of numbers of the plan, [n]."""
        return self.plan.column(name).to_numpy()


@dataclass(frozen=True, slots=True)
class Parts:
    """Measured parts.

    Attributes:
        facts: What summary.json says of them.
        html: Section -> HTML.
    """

    facts: dict[str, Any]
    html: dict[str, str]


def report_parts(shown: Shown, raw: Path, stage: Stage, cache: ShardCache | None = None) -> Parts:
    """Measure the pool and what is kept of it.

    Args:
        shown: What the report is about.
        raw: Folder of ``ingest``.
        stage: For progress.
        cache: Knows the object store, for shards that lie in one.
    """
    kept = shown.column("kept")
    index = read_index(raw, ["key", "metadata_offset", "metadata_size", *COLUMNS], SPLIT)
    places = index.take(pc.index_in(shown.plan.column("key"), value_set=index.column("key").combine_chunks()))
    truth = read_truth(raw, places, stage, cache)
    judged = None if truth is None else judge(truth, kept)
    concepts = count_concepts(shown.captions, kept, shown.names)
    facts: dict[str, Any] = {"truth": judged, "concepts": concept_facts(concepts)}
    html = {"truth": _truth_html(judged), "concepts": _concepts_html(concepts, facts["concepts"])}
    scores = [_fit(shown, kept, measure) for measure in MEASURES]
    html["scores"] = (
        "".join(text for text, _ in scores) or "<p>No step looks at scores, and no embeddings are named.</p>"
    )
    facts["scores"], facts["likelihoods"] = (told for _, told in scores)
    html["clusters"], facts["clusters"] = _clusters(shown, kept)
    html["pictures"] = _pictures(shown, raw, places, cache)
    return Parts(facts, html)


def report_page(summary: Mapping[str, Any], parts: Parts) -> str:
    """Return the page; the same decisions give the same text on every machine.

    Args:
        summary: What summary.json holds.
        parts: From :func:`report_parts`.
    """
    outcomes = [[escape(why), f"{number:,}"] for why, number in summary["captions"]["outcomes"].items()]
    rule = f"<p>Rule <code>{escape(summary['captions']['kind'])}</code>.</p>"
    return _PAGE.substitute(
        name=escape(summary["policy"]),
        dataset=escape(summary["dataset"]),
        pool=f"{summary['pool']:,}",
        kept=f"{summary['kept']:,}",
        share=f"{summary['kept_share']:.2%}",
        steps=_steps_html(summary["steps"]),
        captions=rule + (html_table(["what became of the caption", "kept pairs"], outcomes, 1) if outcomes else ""),
        **parts.html,
    )


def _steps_html(steps: list[dict[str, Any]]) -> str:
    if not steps:
        return "<p>None; the whole pool is kept.</p>"
    rows: list[list[str]] = []
    for step in steps:
        known = {"step", "seen", "kept", "dropped"}
        facts = [f"{k} {_number(v)}" for k, v in step.items() if k not in known and v is not None]
        why = "<br>".join(f"{escape(reason)}: {number:,}" for reason, number in step["dropped"].items())
        rows.append([escape(step["step"]), escape(", ".join(facts)), why, f"{step['seen']:,}", f"{step['kept']:,}"])
    return html_table(["step", "settings and thresholds", "dropped because", "seen", "kept"], rows, 3)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _truth_html(judged: dict[str, Any] | None) -> str:
    if judged is None:
        return "<p>This source does not say which of its captions are false or which pictures are copies.</p>"
    noise, copies = judged["noise"], judged["copies"]
    rows: list[tuple[str, dict[str, Any]]] = [("false captions", noise), ("copies beyond the first", copies)]
    cells = [
        [
            name,
            *(f"{of[side]:,} ({of[side + '_share']:.2%})" for side in ("pool", "kept")),
            "-" if of["recall"] is None else f"{of['recall']:.1%}",
        ]
        for name, of in rows
    ]
    kinds = [[escape(k), f"{of['pool']:,}", f"{of['kept']:,}"] for k, of in noise["by_kind"].items()]
    table = html_table(["", "in the pool", "among the kept", "gone"], cells, 1)
    return table + (f"<h3>By kind</h3>{html_table(['kind', 'pool', 'kept'], kinds, 1)}" if kinds else "")


def _fit(shown: Shown, kept: NDArray[np.bool_], measure: str) -> tuple[str, dict[str, float] | None]:
    """Return a histogram of a measure of fit, and its means; nothing where the policy does not know it."""
    fit = shown.column(measure)
    if not np.isfinite(fit).all():
        return "", None
    steps = shown.summary["steps"]
    limits = sorted({step["threshold"] for step in steps if step.get("by") == measure})
    facts = {"pool_mean": float(fit.mean()), "kept_mean": float(fit[kept].mean())}
    told = f"<p>Mean {measure} {facts['pool_mean']:.4f} in the pool, {facts['kept_mean']:.4f} among the kept.</p>"
    return told + LEGEND + score_svg(f"pairs by {measure}", fit, kept, limits), facts


def _clusters(shown: Shown, kept: NDArray[np.bool_]) -> tuple[str, dict[str, Any] | None]:
    steps = [(number, step) for number, step in enumerate(shown.summary["steps"], 1) if "clusters" in step]
    if not steps:
        return "<p>No step clusters.</p>", None
    last, wanted = steps[-1][0], steps[-1][1]["clusters"]
    reasons = shown.plan.column("reason").combine_chunks().dictionary_encode()
    # pairs that were dropped before the last step that clusters still have the cluster of an earlier one
    saw = np.array([not name or int(name.split()[0]) >= last for name in reasons.dictionary.to_pylist()])
    labels = np.where(saw[reasons.indices.to_numpy()], shown.column("cluster"), -1)
    before = np.bincount(labels[labels >= 0], minlength=wanted)
    after = np.bincount(labels[(labels >= 0) & kept], minlength=wanted)
    rows: list[list[str]] = []
    facts: dict[str, Any] = {}
    for side, sizes in (("pool", before), ("kept", after)):
        low, middle, high = (int(value) for value in np.quantile(sizes, (0, 0.5, 1)))
        facts[side] = {"empty": int((sizes == 0).sum()), "smallest": low, "median": middle, "largest": high}
        rows.append([side, *(f"{value:,}" for value in facts[side].values())])
    note = f"<p>Clusters of step {last}, with the pairs that it saw.</p>"
    table = html_table(["", "empty clusters", "smallest", "median", "largest"], rows, 1)
    return table + note + LEGEND + sizes_svg(before, after), {"count": wanted, **facts}


def _concepts_html(concepts: Concepts, facts: dict[str, Any]) -> str:
    if not concepts.names:
        return "<p>Captions mention no concept often enough.</p>"
    kind = "warn" if facts["gone"] or facts["share_more_than_halved"] else "pass"
    text = (
        f"<p>{facts['entries']:,} concepts in {facts['captions']:,} captions; "
        f'<span class="{kind}">{facts["gone"]:,} are gone, the share of '
        f"{facts['share_more_than_halved']:,} fell by more than half</span>, that of "
        f"{facts['share_more_than_doubled']:,} more than doubled.</p>"
    )
    thirds = [[name, *(f"{of[side]:.1%}" for side in ("pool", "kept"))] for name, of in facts["mentions"].items()]
    text += html_table(["third of the concepts by frequency", "mentions, pool", "mentions, kept"], thirds, 1)
    for title, chosen in extremes(concepts).items():
        rows = [
            [escape(concepts.names[place]), f"{before:,}", f"{after:,}", f"{after / before:.1%}"]
            for place in chosen
            for before, after in [(int(concepts.before[place]), int(concepts.after[place]))]
        ]
        text += f"<h3>{title.capitalize()}</h3>" + html_table(["concept", "pool", "kept", "share kept"], rows, 1)
    return text


def _pictures(shown: Shown, raw: Path, places: pa.Table, cache: ShardCache | None) -> str:
    """Return pictures of what is kept, and of what is dropped by reason, from the worst score to the best."""
    reasons = shown.plan.column("reason").combine_chunks().dictionary_encode()
    names: list[str] = reasons.dictionary.to_pylist()
    codes, scores = reasons.indices.to_numpy(), shown.column("score")
    text = ""
    for name in sorted(names):
        rows = pa.array(pick(np.flatnonzero(codes == names.index(name)), scores))
        title = f"Dropped, {name}" if name else "Kept"
        shown_rows = (places.select(COLUMNS).take(rows), shown.plan.take(rows), shown.captions.take(rows))
        text += f"<h3>{escape(title)}</h3>" + figures(raw, *shown_rows, cache)
    return text
