"""The collection loop: dialogues between an asker and an answerer, recorded in a journal."""
