from assets.validation.offline import make_offline, offline_page, pages, steady_page

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


def test_times_and_drawn_names_are_taken_out_and_values_that_look_like_them_are_not():
    page = """<li class="ge-breadcrumbs-item active" >Validations / splits / 2000-01-01T09:00:00Z</li>
<a href="#a-collapse-body-{0}"></a><div id=a-collapse-body-{0}></div><div id=b-collapse-body-{1}></div>
<tr><td id="x" ><div class="y">Run Time</div></td><td id="z" ><div class="y">2000-01-01T09:00:00Z</div></td></tr>
<tr><td><span >ge_load_time</span></td><td><span a="b" >20261128T213023.962149Z</span></td></tr>
<tr><td>a caption</td><td>20261128T213023.962149Z {0} 2000-01-01T00:00:00Z</td></tr>"""
    drawn = ("06547c77-b575-45d8-83fe-96def0f3beba", "bf026cd6-5614-4e7c-bf10-7b161197a808")
    steady = steady_page(page.format(*drawn))
    assert steady.splitlines() == [
        '<li class="ge-breadcrumbs-item active" >Validations / splits</li>',
        '<a href="#a-collapse-body-1"></a><div id=a-collapse-body-1></div><div id=b-collapse-body-2></div>',
        '<tr><td id="x" ><div class="y">Run Time</div></td><td id="z" ><div class="y">not kept</div></td></tr>',
        '<tr><td><span >ge_load_time</span></td><td><span a="b" >not kept</span></td></tr>',
        f"<tr><td>a caption</td><td>20261128T213023.962149Z {drawn[0]} 2000-01-01T00:00:00Z</td></tr>",
    ]
