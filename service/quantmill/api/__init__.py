"""The REST API. Routes parse, call a use case of `quantmill.jobs` and show the result."""
