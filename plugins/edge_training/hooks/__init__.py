"""One module per outside system; the only modules that import its SDK."""
