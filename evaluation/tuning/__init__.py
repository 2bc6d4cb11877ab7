"""NMTune: a small head on frozen image features, against the harm of noisy captions (docs/methods/nmtune.md)."""
