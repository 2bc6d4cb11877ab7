from assets.validation.offline import make_offline, offline_page, pages

PAGE = """<html><head><link rel="stylesheet" href="https://cdn.example/a.css"><style>
@media (prefers-color-scheme: dark) {
  a { background: url('https://cdn.example/dark.png') }
}</style><script src="https://cdn.example/a.js"></script></head>
<body><img class="x" src="https://cdn.example/logo.png" alt="Great Expectations"><p>kept</p>
<script>$('#t').bootstrapTable({})</script><footer><a href="https://cdn.example">News</a></footer></body></html>"""


def test_nothing_is_fetched_from_elsewhere():
    page = offline_page(PAGE)
    assert "http" not in page and "bootstrapTable" not in page
    assert "<p>kept</p>" in page and "<strong>Great Expectations</strong>" in page


def test_the_front_page_lists_what_there_is(tmp_path):
    for name in ("index.html", "expectations/splits.html", "validations/splits/run 1/time/splits-table.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(PAGE)
    (tmp_path / "static").mkdir()
    make_offline(tmp_path)
    front = (tmp_path / "index.html").read_text()
    assert 'href="validations/splits/run%201/time/splits-table.html"' in front and "expectations/splits.html" in front
    assert not (tmp_path / "static").exists()
    assert [len(found) for found in pages(tmp_path).values()] == [1, 1]
