"""A person reads the unique pairs: a page on loopback, and decisions that outlive it.

`decisions` is the file and what it says, `settle` what it means for the documents as they are, `records` what a build
leaves for a reader, `risk` the order of reading, `cards` and `desk` the state behind the page, `server` serves it.
"""
