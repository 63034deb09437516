"""From the results of all tracks to the dataset folder: filters, splits, shards, statistics, card."""
