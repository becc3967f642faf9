"""Turn documentation into grounded question/answer pairs: sources -> Markdown -> chunks -> pairs -> variants -> CSV."""
