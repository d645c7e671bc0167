"""The query language: parser, syntax tree, filters, and query vectors."""
