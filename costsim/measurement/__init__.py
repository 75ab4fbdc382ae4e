"""Running a training step for real and putting what is measured beside what was predicted.

`record` holds the values and `compare` the comparison, both without torch; the rest measures.
"""
