"""The collection loop: an asker and an answerer talk, and a journal keeps every word."""
