"""Deliveries: shards that come into the store's bucket batch by batch, each batch closed by a manifest.

``upload`` sends a batch, manifest last; ``look`` finds the whole ones; ``batches`` keeps what was accepted in
``batches/D.json``, from which ``ingest`` reads. See docs/data/deliveries.md.
"""
