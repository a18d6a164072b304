"""Statistics of dialogue files: the papers' Table 1 and Figure 3, and more, for any file."""
