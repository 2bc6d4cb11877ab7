"""Tables of the report's pages."""


def html_table(head: list[str], rows: list[list[str]], numeric: int) -> str:
    """Return an HTML table.

    Args:
        head: Column titles.
        rows: Cells, HTML already.
        numeric: The first of the columns that are numbers, which all stand behind the texts.
    """
    kind = ["" if column < numeric else ' class="n"' for column in range(len(head))]
    top = "".join(f"<th{c}>{cell}</th>" for c, cell in zip(kind, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{cell}</td>" for c, cell in zip(kind, row, strict=True)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
