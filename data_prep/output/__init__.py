"""From finished tracks to the dataset folder: filters, splits, shards, statistics, card."""
