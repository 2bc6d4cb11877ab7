"""Makes Great Expectations' pages work without a network, and the same for the same data.

They load styles, icons and scripts from a dozen hosts. Everything fetched from elsewhere is taken out, a small
stylesheet of our own goes in, and the front page, which is empty without its scripts, is replaced by a plain list of
the pages there are. They also tell when they were made and name elements at random, which would give every clone
another version of them; both are taken out (``suite`` gives every run one time).
"""

import re
import shutil
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

_STYLE = """<style>
*, ::before { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #1b1b1f; background: #fff }
a { color: #0b57a4; text-decoration: none } a:hover { text-decoration: underline }
h4, h5, h6 { margin: .2rem 0; font-size: 1.05rem } p { margin: .3rem 0 } .h6 { font-weight: 600 }
.navbar.sticky-top { border-bottom: 1px solid #d8d8dc; padding: .8rem 2rem; height: auto !important }
.navbar-brand { font-weight: 600; margin-right: 1.5rem } .navbar nav { display: flex; align-items: baseline }
.breadcrumb { display: flex; list-style: none; padding: 0; margin: 0 } .breadcrumb-item + li::before { content: " / " }
.breadcrumb-item { margin-right: .4rem }
.container-fluid { padding: 0 } body > .container-fluid { padding: 1.5rem 2rem }
.row { display: flex; flex-wrap: wrap; margin: 0 } body > .container-fluid > .row { flex-wrap: nowrap; gap: 2rem }
.col-lg-2 { flex: 0 0 210px } .col-lg-10 { flex: 1; min-width: 0 } .col-12 { width: 100% }
.ge-section .table-responsive { width: 100% }
.sticky { position: sticky; top: 1rem } .nav { list-style: none; padding: 0; margin: 0 } .nav-link { display: block }
.card { border: 1px solid #d8d8dc; border-radius: 6px; margin-bottom: 1rem; padding: .6rem } .card .card { border: 0 }
.alert-secondary { background: #eef0f3; border-radius: 6px; padding: .5rem .8rem; margin: .3rem 0 }
.ge-section { margin-bottom: 1.2rem; padding-bottom: 0 }
table { border-collapse: collapse; width: 100% } th { text-align: left }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #e4e4e7; vertical-align: top; overflow-wrap: anywhere }
th:first-child:not(:last-child), td.hide-succeeded-validation-target-child { width: 6rem }
.table-sm td:first-child { width: 16rem }
.text-success { color: #13661f } .text-danger { color: #b3121d } .text-warning { color: #8a5300 }
.fas { font-style: normal; font-weight: 700 } .fa-check-circle::before { content: "pass" }
.fa-times::before { content: "FAIL" } .fa-exclamation-triangle::before { content: "warning" }
.badge { background: #eef0f3; border-radius: 4px; padding: 0 .3rem; font-weight: 400 } .collapse { display: block }
[data-toggle="collapse"], .fa-chevron-down, .cooltip .top, [role="tooltip"], footer { display: none !important }
.btn { cursor: pointer; margin-right: .6rem }
</style>
<script>
function show(failedOnly) {
  for (const row of document.querySelectorAll(".hide-succeeded-validations-column-section-target-child tbody tr"))
    row.hidden = failedOnly && row.querySelector("td .fa-check-circle") !== null;
}
function showAllValidations() { show(false) }
function hideSucceededValidations() { show(true) }
</script>
"""
_REMOVED = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<footer\b.*?</footer>",
    r"@import[^;]*;",
    r"@media \(prefers-color-scheme: dark\) \{.*?\n\}(?=\s*</style>)",
)
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""What every run is told to have begun at: its own time would stand in the address and on the page of its results."""
_UNKEPT = "not kept"
_RANDOM = re.compile(r"(collapse-body-)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_LOADED = re.compile(r"(ge_load_time</span>(?:(?!</tr>).)*?>)\d{8}T\d{6}\.\d{6}Z(?=<)", re.DOTALL)
# told in the time zone of the machine, whatever RUN_TIME has
_BEGUN = re.compile(r"(>Run Time</div></td><td[^>]*><div[^>]*>)[0-9T:-]{19}Z(?=<)")
_CRUMB = re.compile(r"(ge-breadcrumbs-item[^>]*>[^<]*) / [0-9T:-]{19}Z(?=</li>)")


def steady_page(html: str) -> str:
    """Return a page without the time it was made at, and with names that are numbered and not drawn.

    Args:
        html: A page as Great Expectations writes it of a run that began at ``RUN_TIME``.
    """
    numbers: dict[str, int] = {}
    html = _RANDOM.sub(lambda found: f"{found[1]}{numbers.setdefault(found[2], len(numbers) + 1)}", html)
    for moment in (_LOADED, _BEGUN):
        html = moment.sub(rf"\g<1>{_UNKEPT}", html)
    return _CRUMB.sub(r"\g<1>", html)


def offline_page(html: str) -> str:
    """Return a page that fetches nothing.

    Args:
        html: A page as Great Expectations writes it.
    """
    for pattern in _REMOVED:
        html = re.sub(pattern, "", html, flags=re.DOTALL)
    html = re.sub(r"<img\b[^>]*?alt=\"([^\"]*)\"[^>]*>", r"<strong>\1</strong>", html)
    html = re.sub(r"<img\b[^>]*>", "", html)
    html = re.sub(r"url\(['\"]?https?:[^)]*\)", "none", html)
    html = re.sub(r"\s(?:target|integrity|crossorigin)=\"[^\"]*\"", "", html)
    return html.replace("</head>", f"{_STYLE}</head>", 1)


def make_offline(site: Path) -> None:
    """Rewrite a data docs site in place.

    Args:
        site: The folder with its ``index.html``.
    """
    for page in sorted(site.rglob("*.html")):
        page.write_text(offline_page(steady_page(page.read_text(encoding="utf-8"))), encoding="utf-8")
    shutil.rmtree(site / "static", ignore_errors=True)
    (site / "index.html").write_text(_front_page(site), encoding="utf-8")


def pages(site: Path) -> dict[str, list[tuple[str, str]]]:
    """List a site's pages.

    Args:
        site: The folder with its ``index.html``.

    Returns:
        Heading -> (title, relative address) of each page below it.
    """
    results = sorted((site / "validations").rglob("*.html"))
    suites = sorted((site / "expectations").rglob("*.html"))
    return {
        "Validation results": [(path.parent.parent.name, _address(path, site)) for path in results],
        "Expectation suites": [(path.stem, _address(path, site)) for path in suites],
    }


def _address(path: Path, site: Path) -> str:
    return quote(path.relative_to(site).as_posix())


def _front_page(site: Path) -> str:
    lists = "".join(
        f"<h2>{heading}</h2><ul>"
        + "".join(f'<li><a href="{address}">{escape(title)}</a></li>' for title, address in found)
        + "</ul>"
        for heading, found in pages(site).items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data docs</title>'
        "<style>body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem }"
        "</style></head><body><h1>Great Expectations data docs</h1>"
        f'<p><a href="../index.html">Back to the report</a></p>{lists}</body></html>\n'
    )
