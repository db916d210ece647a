"""The query-time service: searches one index and answers over HTTP. Never loads the dataflow."""
