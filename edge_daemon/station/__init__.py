"""What people see: the report of a part or a lot, and the page that makes and shows them.

    words.py     every sentence, in English and Hebrew (locale/*.json)
    reading.py   what a stored record says, read for people: comparisons, severity, what would have to be smaller
    report/      HTML and PDF from a record and its pictures
    app.py       the page: Starlette, Jinja2, htmx from a vendored file; ``edge-daemon station``

Nothing on the line imports this room, and it does not import the line: it reads records, /metrics and /readyz.
"""
