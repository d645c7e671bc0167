"""Full text search: tokenizer, folding of letters, BM25."""
