"""Ranking: candidates, scores by modality, lexical evidence, fusion, grouping of hits."""
