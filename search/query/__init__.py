"""The query language: syntax tree, parser, filters, hints, and the encoding of text, pictures and clips."""
