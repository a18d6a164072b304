"""Reports: charts and self-contained pages. Loads no jax and imports only core.

texts.py    texts of any origin, made fit for a page
charts.py   charts as SVG
page.py     a page as one HTML file
markdown.py tables as Markdown
console.py  tables on the console
"""
