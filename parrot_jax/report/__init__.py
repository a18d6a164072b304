"""Reports: charts and pages that stand on their own. Loads no jax and knows no room but core.

texts.py   texts of any origin, made fit for a page
charts.py  charts as SVG
page.py    a page as one HTML file
"""
