"""Use cases, one verb a function. The API and the CLI call these and nothing below them."""
