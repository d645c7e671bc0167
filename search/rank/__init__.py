"""Ranking: prefilter, candidates, scores, keyword matches, fusion of ranks, pairs, grouping."""
