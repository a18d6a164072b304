"""What dialogue files are like, in numbers: the papers' Table 1 and Figure 3 for any file."""
