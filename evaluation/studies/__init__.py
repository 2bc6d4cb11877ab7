"""Studies: a question that many runs answer together, such as what caption noise does (docs/noise_study.md)."""
