"""Reports: charts and pages that stand on their own. Loads no jax and knows no room but core."""
