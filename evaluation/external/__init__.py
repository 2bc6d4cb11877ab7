"""Standard evaluation sets from elsewhere, in the WebDataset format of the package clip-benchmark."""
