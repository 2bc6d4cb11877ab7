"""The HTML page that ``dvc plots show`` fills, with vega inside, so that it works without a network.

DVC's own page loads vega from a content network and stays blank offline. ``.dvc/config`` names this page instead; it
is made on the machine (vega is 1 MB of JavaScript that ships inside ``vl_convert``), and git ignores it.
"""

from pathlib import Path

from assets.atomic import write_text

_SNIPPET = "window.vegaEmbed = vegaEmbed;"
# DVC replaces {plot_divs} and {refresh_tag}; its own {scripts} are left out, they would load vega from the network
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>clipfoundry plots</title>
<script>BUNDLE</script>
<style>
body { font-family: system-ui, sans-serif; margin: 1.5rem; }
body > div { display: inline-block; vertical-align: top; margin: 0.5rem; }
table { border-spacing: 15px; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write_plots_template(path: Path) -> None:
    """Write the page.

    Args:
        path: Where ``plots.html_template`` of ``.dvc/config`` points.
    """
    import vl_convert

    bundle = vl_convert.javascript_bundle(_SNIPPET)
    write_text(path, _PAGE.replace("BUNDLE", bundle.replace("</script", "<\\/script")))
