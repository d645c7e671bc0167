"""Tasks beyond one search, one a module: each answers with evidence, times and a measured control."""
