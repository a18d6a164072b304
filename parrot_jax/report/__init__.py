"""Reports: charts and self-contained pages. Loads no jax and imports only core.

texts.py       cleans untrusted text for a page
environment.py the Jinja environment of pages
charts.py      charts as SVG
page.py        a page as one HTML file
markdown.py    tables as Markdown
console.py     tables on the console
"""
