"""A seeded little world with ground truth: its facts, its people, its answerer, the quickstart."""
